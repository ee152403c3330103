// Shows Markdown that is still being written: blocks that can no longer change are left alone, the rest is made anew.

import { button, element } from "./element.js";
import { copyText } from "./clipboard.js";
import { blocksOf } from "./markdown_blocks.js";
import { inlineNodes, plainText } from "./markdown_inline.js";

/** The last block may grow, and may turn out to be part of the one before (a list goes on after a blank line). */
const NUM_UNSETTLED = 2;
/** A model's headings begin below those of the page. */
const FIRST_LEVEL = 4;

/** Fills `node` with a text that grows. */
export class MarkdownView {
  #node;
  #settledEnd = 0;
  #unsettled = [];

  constructor(node) {
    this.#node = node;
  }

  /** Show `text`, which must start with what was shown before. */
  update(text) {
    const blocks = blocksOf(text.slice(this.#settledEnd));
    if (this.#grewByCodeOnly(blocks)) return;
    for (const { node } of this.#unsettled) node.remove();
    const shown = blocks.map((block) => ({ block, node: nodeOf(block) }));
    for (const { node } of shown) this.#node.append(node);
    const settled = shown.slice(0, -NUM_UNSETTLED);
    this.#settledEnd += settled.at(-1)?.block.end ?? 0;
    this.#unsettled = shown.slice(-NUM_UNSETTLED);
  }

  /** The usual case in a long listing: one node's text changes, and a selection in it survives. */
  #grewByCodeOnly(blocks) {
    const last = this.#unsettled.at(-1);
    const fresh = blocks.at(-1);
    const isSame = last?.block.kind === "code" && fresh?.kind === "code" && last.block.language === fresh.language;
    if (!isSame || blocks.length !== this.#unsettled.length || !fresh.text.startsWith(last.block.text)) return false;
    last.node.querySelector("code").firstChild.data = plainText(fresh.text);
    last.block = fresh;
    return true;
  }
}

const MAKERS = {
  paragraph: ({ text }) => element("p", { dir: "auto" }, inlineNodes(text)),
  heading: ({ level, text }) =>
    element(`h${Math.min(level + FIRST_LEVEL - 1, 6)}`, { dir: "auto" }, inlineNodes(text)),
  rule: () => element("hr"),
  quote: ({ blocks }) => element("blockquote", { dir: "auto" }, ...blocks.map(nodeOf)),
  list: listNode,
  code: codeNode,
  table: tableNode,
};

const nodeOf = (block) => MAKERS[block.kind](block);

function listNode({ isOrdered, start, items }) {
  const nodes = items.map((blocks) => element("li", { dir: "auto" }, ...blocks.map(itemPart)));
  return isOrdered ? element("ol", { start }, ...nodes) : element("ul", {}, ...nodes);
}

/** A paragraph in a list needs no space around it. */
const itemPart = (block) =>
  block.kind === "paragraph" ? element("div", { dir: "auto" }, inlineNodes(block.text)) : nodeOf(block);

function codeNode({ language, text }) {
  const code = element("code", {}, document.createTextNode(plainText(text)));
  const copy = button("Copy", () => copyText(code.textContent, copy), { describe: "Copy this code" });
  const label = element("figcaption", {}, element("span", {}, plainText(language) || "text"), copy);
  return element("figure", { class: "code" }, label, element("pre", { dir: "ltr", tabindex: 0 }, code));
}

function tableNode({ head, alignments, rows }) {
  const cell = (tag) => (text, column) =>
    element(tag, { dir: "auto", class: `align-${alignments[column] ?? "start"}` }, inlineNodes(text));
  const heading = element("thead", {}, element("tr", {}, ...head.map(cell("th"))));
  const body = rows.map((row) => element("tr", {}, ...row.slice(0, head.length).map(cell("td"))));
  return element("div", { class: "wide", tabindex: 0 }, element("table", {}, heading, element("tbody", {}, ...body)));
}
