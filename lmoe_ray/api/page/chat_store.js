// Chats and settings, kept in this browser and nowhere else.

/** Older chats make room for new ones. */
const MAX_CHATS = 50;
const CHAT = "lmoe.chat.";
const PREFERENCES = "lmoe.preferences";
const DEFAULTS = {
  model: "",
  expert: "",
  compared: [],
  system: "",
  temperature: "",
  maxTokens: "",
  isRouteOpen: false,
};

/** Every chat, latest first. What cannot be read stays listed, so that it can be deleted. */
export function listChats() {
  const names = Object.keys(localStorage).filter((name) => name.startsWith(CHAT));
  return names.map((name) => readChat(name.slice(CHAT.length))).sort((a, b) => b.updated - a.updated);
}

export function readChat(id) {
  const chat = parsed(localStorage.getItem(CHAT + id));
  return Array.isArray(chat?.turns) ? chat : { id, title: "(cannot be read)", updated: 0, turns: [] };
}

/** Keep a chat; the oldest go when there are too many or the browser gives no more room. Throws if not even then. */
export function saveChat(chat) {
  const older = listChats().filter(({ id }) => id !== chat.id);
  for (const { id } of older.splice(MAX_CHATS - 1)) deleteChat(id);
  for (;;) {
    try {
      return localStorage.setItem(CHAT + chat.id, JSON.stringify(chat));
    } catch (error) {
      if (older.length === 0) throw error;
      deleteChat(older.pop().id);
    }
  }
}

export const hasChat = (id) => localStorage.getItem(CHAT + id) !== null;

export const deleteChat = (id) => localStorage.removeItem(CHAT + id);

export function deleteAllChats() {
  for (const { id } of listChats()) deleteChat(id);
}

export const readPreferences = () => ({ ...DEFAULTS, ...parsed(localStorage.getItem(PREFERENCES)) });

export const savePreferences = (preferences) => localStorage.setItem(PREFERENCES, JSON.stringify(preferences));

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
