// LangChain's OpenAI package for JavaScript.
// Usage: node with_langchain.mjs FOLDER_WITH_NODE_MODULES BASE_URL MODEL
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, baseURL, model] = process.argv.slice(2);
const require = createRequire(join(folder, "package.json"));
const { ChatOpenAI, OpenAIEmbeddings } = require("@langchain/openai");
const { z } = require("zod");

const server = { model, apiKey: "x", temperature: 0, maxRetries: 0, configuration: { baseURL } };
const few = new ChatOpenAI({ ...server, maxTokens: 16 });
const many = new ChatOpenAI({ ...server, maxTokens: 120 });
const place = z.object({ city: z.enum(["Paris", "Rome"]) });
const parameters = {
  type: "object", properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"], additionalProperties: false,
};
const weather = { type: "function", function: { name: "weather", description: "of a city", parameters } };
const question = "What is the weather in Paris?";

const scenarios = {
  async chat() {
    return (await few.invoke("hello there")).content;
  },
  async stream() {
    let text = "";
    for await (const chunk of await few.stream("hello there")) text += chunk.content;
    return text;
  },
  async tools() {
    const call = (await many.bindTools([weather], { tool_choice: "required" }).invoke(question)).tool_calls[0];
    return [call.name, call.args];
  },
  async structured() {
    return many.withStructuredOutput(place, { method: "jsonSchema", name: "place" }).invoke(question);
  },
  async embeddings() {
    return new OpenAIEmbeddings(server).embedDocuments(["hello there", "x"]);
  },
};

const told = {};
for (const [scenario, run] of Object.entries(scenarios)) {
  told[scenario] = await run().catch((error) => ({ failed: `${error.name}: ${error.message}` }));
}
console.log(JSON.stringify(told));
