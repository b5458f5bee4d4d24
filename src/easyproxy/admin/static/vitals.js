// Four numbers of the whole balancer, each with its last two minutes.

import { h, setText } from "./dom.js";
import { count, sizeParts } from "./format.js";
import { sparkline } from "./spark.js";

const CELLS = [
  { name: "sessions", label: "Sessions now", spark: "", parts: (value) => [count(value), ""] },
  { name: "fresh", label: "New sessions", spark: "", parts: (value) => [freshRate(value), "/s"] },
  { name: "toClients", label: "To clients", spark: "second", parts: perSecond },
  { name: "fromClients", label: "From clients", spark: "second", parts: perSecond },
];

const freshRate = (value) => (value > 0 && value < 9.95 ? value.toFixed(1) : count(value));

function perSecond(value) {
  const [number, unit] = sizeParts(value);
  return [number, `${unit}/s`];
}

/** Returns update(history, now). */
export function vitals(parent) {
  const cells = CELLS.map(({ name, label, spark: extra, parts }) => {
    const number = h("span");
    const unit = h("span", { class: "unit" });
    const spark = sparkline(extra);
    parent.append(h("div", { class: "vital" }, h("dt", {}, label), h("dd", {}, number, unit), spark.node));
    return { name, number, unit, spark, parts };
  });
  return function update(history, now) {
    for (const { name, number, unit, spark, parts } of cells) {
      const [value, its] = parts(history.whole[name].last);
      setText(number, value);
      setText(unit, its);
      spark.draw(history.whole[name], now);
    }
  };
}
