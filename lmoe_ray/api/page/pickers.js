// Who shall answer: a model, and for it the router, one expert, or several side by side.

import { BASE_LABEL } from "./chat.js";
import { byId, element } from "./element.js";

/** What the server calls the base model where an expert could be named; an expert of that name comes first. */
const BASE = "base";
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
    this.#model.replaceChildren(...groupNodes("Models", named(own)), ...groupNodes("Other names", named(others)));
    select(this.#model, this.#preferences.model, names[0] ?? "");
    this.#offerExperts();
    this.#read();
  }

  /** Name of the model; empty before the server has told any. */
  get model() {
    return this.#model.value;
  }

  /** Whom to ask, as newAnswer takes it; empty when none is ticked to compare. */
  get asked() {
    const names = this.#expert.value === SEVERAL ? this.#preferences.compared : [this.#expert.value];
    const labels = new Map(this.people.map(({ name, label }) => [name, label]));
    return names.map((asked) => ({ asked, label: labels.get(asked) ?? asked }));
  }

  /** Who may be asked by name: `{name, label, description}`; the base model too, where it is not alone. */
  get people() {
    const own = this.#experts.filter(({ model }) => model === this.#model.value || !this.#isBase());
    const experts = own.map(({ name, description }) => ({ name, label: name, description }));
    if (experts.length === 0) return [];
    const name = experts.some((expert) => expert.name === BASE) ? this.model : BASE;
    return [...experts, { name, label: BASE_LABEL, description: "The model itself, without an expert" }];
  }

  pin(expert) {
    this.#expert.value = expert;
    this.#read();
  }

  #isBase() {
    return this.#experts.some(({ model }) => model === this.#model.value);
  }

  #offerExperts() {
    const labels = new Map(this.people.map(({ name, label }) => [name, label]));
    const several = labels.size > 0 ? [option(SEVERAL, "Compare several")] : [];
    this.#expert.replaceChildren(option(ROUTER, "Router chooses"), ...several, ...groupNodes("Always", labels));
    select(this.#expert, this.#preferences.expert, ROUTER);
    const ticks = [[ROUTER, "router’s choice"], ...labels].map(([name, label]) => this.#tick(name, label));
    this.#compared.replaceChildren(element("legend", {}, "Compare"), ...ticks);
  }

  #tick(name, label) {
    const checked = this.#preferences.compared.includes(name);
    const box = element("input", { type: "checkbox", value: name, checked });
    return element("label", {}, box, label);
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

const named = (names) => new Map(names.map((name) => [name, name]));

/** Labels by their values, under a heading; nothing where there are none. */
const groupNodes = (label, labels) =>
  labels.size === 0 ? [] : [element("optgroup", { label }, ...[...labels].map((entry) => option(...entry)))];

function select(node, wanted, otherwise) {
  node.value = wanted;
  if (node.selectedIndex < 0) node.value = otherwise;
}
