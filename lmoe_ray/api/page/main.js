// Joins the parts of the page: who tells whom what. Everything that is shown or asked lives in a file of its own.

import { asJson, asMarkdown, download, fileName } from "./chat_export.js";
import { isRunning, newChat } from "./chat.js";
import { readChat, readPreferences, savePreferences } from "./chat_store.js";
import { ChatView } from "./chat_view.js";
import { Composer } from "./composer.js";
import { askKey, requestFields, wireKey, wireSettings } from "./dialogs.js";
import { byId } from "./element.js";
import { announce, hideNotice, showNotice } from "./notices.js";
import { Pickers } from "./pickers.js";
import { listExperts, listModels } from "./server.js";
import { Session } from "./session.js";
import { Sidebar } from "./sidebar.js";

const preferences = readPreferences();
/** The turn that the next question replaces, and the one some of whose answers wait for a key. */
let edited = null;
let refused = null;

const pickers = new Pickers(preferences, () => savePreferences(preferences));
const composer = new Composer({ send, stop: () => session.stop(), newChat: openNew, cancelEdit });
const chatView = new ChatView({
  retry,
  edit,
  choose,
  pin,
  askKey: () => askKey(""),
  isRouteOpen: () => preferences.isRouteOpen,
  setRouteOpen,
});
const sidebar = new Sidebar({ open: (id) => openChat(readChat(id)), newChat: openNew });
const session = new Session({
  chatChanged: drawChat,
  answerChanged,
  routeChanged: (turn) => chatView.drawRoute(turn),
  runningChanged: (isRunning) => (composer.isRunning = isRunning),
  notSaved: () => showNotice("This browser has no more room, so the chat is not kept. Export it, or delete others."),
});

wireSettings(preferences, () => savePreferences(preferences));
wireKey(keyEntered);
byId("export-json").addEventListener("click", () => exportAs("json", "application/json", asJson));
byId("export-markdown").addEventListener("click", () => exportAs("md", "text/markdown", asMarkdown));
addEventListener("offline", () => showNotice("This device is offline; only a server on this device can be reached."));
addEventListener("online", hideNotice);
openNew();
connect();

async function connect() {
  try {
    const [models, experts] = await Promise.all([listModels(), listExperts()]);
    hideNotice();
    pickers.offer(models, experts);
    if (session.chat.turns.length === 0) drawChat(session.chat);
  } catch (error) {
    showNotice(error.message, "Try again", connect);
    if (error.status === 401) askKey(error.message);
  }
}

function send(question) {
  if (pickers.model === "") return warn("The server has not told its models yet. Wait, or try to connect again.");
  if (pickers.asked.length === 0) return warn("Tick who is to be compared, or let the router choose.");
  hideNotice();
  session.ask(question, pickers.asked, request(), edited);
  cancelEdit();
  return true;
}

function warn(problem) {
  showNotice(problem, ...(pickers.model === "" ? ["Connect", connect] : []));
  return false;
}

function request() {
  return { model: pickers.model, system: preferences.system, fields: requestFields(preferences) };
}

function retry(turn, answers) {
  session.retry(turn, answers, request());
  announce("Asked again.");
}

function edit(turn) {
  edited = turn;
  composer.isEditing = true;
  composer.text = turn.question;
  composer.focus();
}

function cancelEdit() {
  if (edited !== null) composer.text = "";
  edited = null;
  composer.isEditing = false;
}

function choose(turn, answer) {
  session.choose(turn, answer);
  chatView.drawChoice(turn);
}

function pin(expert) {
  pickers.pin(expert);
  composer.focus();
}

function setRouteOpen(isOpen) {
  preferences.isRouteOpen = isOpen;
  savePreferences(preferences);
}

function answerChanged(turn, answer) {
  chatView.update(turn, answer);
  if (lacksKey(answer)) refused = turn;
  if (!isRunning(answer)) sidebar.draw(session.chat.id);
}

/** A new key is tried at once on what it was missing for. */
async function keyEntered() {
  await connect();
  const waiting = session.chat.turns.at(-1) === refused ? refused.answers.filter(lacksKey) : [];
  if (waiting.length > 0) retry(refused, waiting);
  refused = null;
}

const lacksKey = ({ error }) => error?.status === 401;

function openNew() {
  openChat(newChat());
  composer.focus();
}

function openChat(chat) {
  cancelEdit();
  hideNotice();
  session.open(chat);
}

function drawChat(chat) {
  chatView.draw(chat, pickers.people);
  sidebar.draw(chat.id);
}

function exportAs(suffix, type, write) {
  download(fileName(session.chat, suffix), type, write(session.chat));
  byId("export").open = false;
}
