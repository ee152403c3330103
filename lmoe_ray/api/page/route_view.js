// The picture of a route: one strip with everybody's share, and on demand bars, reason, evidence and samples.

import { element } from "./element.js";
import { plainText } from "./markdown_inline.js";

/** So many experts are named beside the strip. */
const NUM_NAMED = 3;

const percent = (share) => `${Math.round(share * 100)} %`;
const labelOf = (expert) => expert ?? "the base model";

/**
 * @param {Object} route a decision of `/v1/route`
 * @param {boolean} isOpen
 * @param {function(boolean)} onToggle told when somebody opens or closes it
 */
export function routeNode(route, isOpen, onToggle) {
  const details = element("details", { class: "route", open: isOpen }, summaryOf(route), detailsOf(route));
  details.addEventListener("toggle", () => onToggle(details.open));
  return details;
}

/** The strip in words: the best of all, and where none was chosen, who answers instead. */
function sentenceOf({ expert, routed_by, candidates }) {
  if (candidates.length === 0) return `Router: ${labelOf(expert)}`;
  const best = candidates.slice(0, NUM_NAMED).map((candidate) => `${candidate.expert} ${percent(candidate.score)}`);
  const instead = routed_by === "abstained" ? `; unsure, so ${labelOf(expert)}` : "";
  return plainText(`Router: ${best.join(", ")}${instead}`);
}

function summaryOf(route) {
  const why = element("span", { class: "why" }, "Why");
  return element("summary", {}, strip(route), element("span", { class: "sentence" }, sentenceOf(route)), why);
}

function strip({ expert, candidates }) {
  const parts = candidates.map((candidate) => bar(candidate.score, candidate.expert === expert));
  return element("span", { class: "strip", "aria-hidden": "true" }, ...parts);
}

/** A bar as wide as a share of its box; set by script, because the page's policy forbids style attributes. */
function bar(share, isChosen) {
  const node = element("span", { class: isChosen ? "bar chosen" : "bar" });
  node.style.width = `${share * 100}%`;
  return node;
}

function detailsOf(route) {
  const { candidates, neighbours, reason, threshold } = route;
  const box = element("div", { class: "route-body" });
  if (candidates.length > 0) box.append(scores(route));
  const bound = threshold > 0 ? ` Below ${percent(threshold)} the fallback answers.` : "";
  const took = ` Decided in ${Math.max(1, Math.round(route.duration * 1000))} ms.`;
  box.append(element("p", { class: "reason" }, plainText(sentence(reason)) + bound + took));
  box.append(...evidence(route));
  if (neighbours.length > 0) box.append(samples(neighbours));
  return box;
}

const sentence = (reason) => (reason === "" ? "" : `${reason[0].toUpperCase()}${reason.slice(1)}.`);

function scores({ candidates, expert, threshold }) {
  const rows = candidates.map((candidate) => scoreRow(candidate, candidate.expert === expert, threshold));
  const caption = element("caption", { class: "unseen" }, "Score of each expert");
  return element("table", { class: "scores" }, caption, element("tbody", {}, ...rows));
}

function scoreRow({ expert, score }, isChosen, threshold) {
  const track = element("span", { class: "track", "aria-hidden": "true" }, bar(score, isChosen));
  if (threshold > 0) track.append(thresholdMark(threshold));
  return element(
    "tr",
    { class: isChosen && "chosen" },
    element("th", { scope: "row" }, plainText(expert)),
    element("td", { class: "track-cell" }, track),
    element("td", {}, percent(score)),
  );
}

function thresholdMark(threshold) {
  const mark = element("span", { class: "threshold" });
  mark.style.left = `${threshold * 100}%`;
  return mark;
}

/** How much each kind of evidence counts and what it says alone; absent where there is one kind only. */
function evidence({ evidence: shares = {}, candidates }) {
  const kinds = Object.keys(shares).length > 0 ? Object.keys(shares) : Object.keys(candidates[0]?.opinions ?? {});
  if (kinds.length === 0) return [];
  const head = kinds.map((kind) => kindCell(kind, shares[kind]));
  const rows = candidates.map(({ expert, opinions = {} }) => opinionRow(expert, kinds, opinions));
  const heading = element("thead", {}, element("tr", {}, element("td"), ...head));
  const table = element("table", { class: "opinions" }, heading, element("tbody", {}, ...rows));
  return [folded("Kinds of evidence", element("div", { class: "wide", tabindex: 0 }, table))];
}

const kindCell = (kind, share) =>
  element("th", { scope: "col" }, plainText(kind), element("small", {}, share === undefined ? "" : percent(share)));

const folded = (label, node) => element("details", {}, element("summary", {}, label), node);

const opinionRow = (expert, kinds, opinions) =>
  element(
    "tr",
    {},
    element("th", { scope: "row" }, plainText(expert)),
    ...kinds.map((kind) => element("td", {}, kind in opinions ? percent(opinions[kind]) : "–")),
  );

function samples(neighbours) {
  const rows = neighbours.map(({ expert, similarity, text }) => {
    const sample = element("span", { dir: "auto" }, plainText(text));
    return element("li", {}, element("b", {}, plainText(expert)), ` ${similarity.toFixed(2)} `, sample);
  });
  return folded(`Nearest samples (${neighbours.length})`, element("ol", { class: "samples" }, ...rows));
}
