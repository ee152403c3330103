// Who shall answer: a model, and for it the router, one expert, or several side by side.

import { byId, element } from "./element.js";

const ROUTER = "";
const SEVERAL = "*";

/** The choice is kept in `preferences`; `onChange` is told of each change. */
export class Pickers {
  #model = byId("model");
  #expert = byId("expert");
  #compared = byId("compared");
  #experts = [];
  #preferences;
  #onChange;

  constructor(preferences, onChange) {
    this.#preferences = preferences;
    this.#onChange = onChange;
    this.#model.addEventListener("change", () => this.#read());
    this.#expert.addEventListener("change", () => this.#read());
    this.#compared.addEventListener("change", () => this.#read());
  }

  /** Offer what the server has; a choice it no longer has is dropped. */
  offer(models, experts) {
    this.#experts = experts;
    const bases = [...new Set(experts.map(({ model }) => model))];
    const names = models.map(({ id }) => id).filter((id) => !bases.some((base) => id.startsWith(`${base}:`)));
    const own = names.filter((id) => bases.includes(id));
    const others = names.filter((id) => !bases.includes(id));
    this.#model.replaceChildren(...groupNodes("Models", own), ...groupNodes("Other names", others));
    select(this.#model, this.#preferences.model, names[0] ?? "");
    this.#offerExperts();
    this.#read();
  }

  /** Name of the model; empty before the server has told any. */
  get model() {
    return this.#model.value;
  }

  /** Experts to ask, "" where the router chooses; empty when none is ticked to compare. */
  get asked() {
    return this.#expert.value === SEVERAL ? this.#preferences.compared : [this.#expert.value];
  }

  get experts() {
    return this.#experts.filter(({ model }) => model === this.#model.value || !this.#isBase());
  }

  pin(expert) {
    this.#expert.value = expert;
    this.#read();
  }

  #isBase() {
    return this.#experts.some(({ model }) => model === this.#model.value);
  }

  #offerExperts() {
    const names = [...new Set(this.experts.map(({ name }) => name))];
    const several = names.length > 0 ? [option(SEVERAL, "Compare several")] : [];
    this.#expert.replaceChildren(option(ROUTER, "Router chooses"), ...several, ...groupNodes("Always", names));
    select(this.#expert, this.#preferences.expert, ROUTER);
    const ticks = [ROUTER, ...names].map((name) => this.#tick(name));
    this.#compared.replaceChildren(element("legend", {}, "Compare"), ...ticks);
  }

  #tick(name) {
    const checked = this.#preferences.compared.includes(name);
    const box = element("input", { type: "checkbox", value: name, checked });
    return element("label", {}, box, name || "router’s choice");
  }

  #read() {
    if (this.#model.value !== this.#preferences.model && this.#preferences.model !== "") {
      this.#preferences.model = this.#model.value;
      this.#offerExperts();
    }
    const ticked = [...this.#compared.querySelectorAll("input:checked")].map(({ value }) => value);
    Object.assign(this.#preferences, { model: this.#model.value, expert: this.#expert.value, compared: ticked });
    this.#compared.hidden = this.#expert.value !== SEVERAL;
    this.#onChange();
  }
}

const option = (value, label) => element("option", { value }, label);

/** The names under a heading; nothing where there are none. */
const groupNodes = (label, names) =>
  names.length === 0 ? [] : [element("optgroup", { label }, ...names.map((name) => option(name, name)))];

function select(node, wanted, otherwise) {
  node.value = wanted;
  if (node.selectedIndex < 0) node.value = otherwise;
}
