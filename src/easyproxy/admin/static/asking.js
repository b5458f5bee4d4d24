// Asking again and again: one question at a time, so that no answer is overtaken by an older one.

/** Returns a function that asks; while an answer is waited for, it asks once more when that has come. */
export function inTurn(question) {
  let running = null;
  let again = false;
  return function ask() {
    again = Boolean(running);
    running ??= (async () => {
      try {
        do {
          again = false;
          await question();
        } while (again);
      } finally {
        running = null;
      }
    })();
    return running;
  };
}
