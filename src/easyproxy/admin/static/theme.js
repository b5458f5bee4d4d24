// Light, dark, or as the system says. A classic script in the head, so that the page is never painted in the wrong one.

(() => {
  const ORDER = ["system", "light", "dark"];
  const root = document.documentElement;

  function stored() {
    try {
      return ORDER.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "system";
    } catch {
      return "system"; // storage is forbidden
    }
  }

  function show(theme) {
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
  }

  let theme = stored();
  show(theme);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = () => button.setAttribute("aria-label", `Colours: ${theme === "system" ? "as the system says" : theme}`);
    button.title = "Light, dark, or as the system says";
    name();
    button.addEventListener("click", () => {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      show(theme);
      name();
      try {
        localStorage.setItem("theme", theme);
      } catch {
        // then it lasts as long as the page
      }
    });
  });
})();
