// Anthropic's package for Node.

import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { VERSION } from "@anthropic-ai/sdk/version";
import * as checks from "./checks.mjs";

const client = new Anthropic({ baseURL: checks.ANTHROPIC_URL, apiKey: checks.API_KEY, maxRetries: 0 });
const model = checks.MODEL;
const ask = (content) => ({ model, max_tokens: 64, temperature: 0, messages: [{ role: "user", content }] });
const textOf = (message) => message.content.map((block) => block.text ?? "").join("");

async function chat() {
  const message = await client.messages.create({ ...ask(checks.QUESTION), system: "Be brief." });
  checks.said(textOf(message));
  checks.counted(message.usage.input_tokens, message.usage.output_tokens);
}

async function stream() {
  const pieces = [];
  const events = client.messages.stream(ask(checks.QUESTION)).on("text", (piece) => pieces.push(piece));
  const message = await events.finalMessage();
  checks.inPieces(pieces);
  checks.counted(message.usage.input_tokens, message.usage.output_tokens);
}

async function tools() {
  const tool = { name: checks.TOOL, description: checks.TOOL_SAYS, input_schema: checks.PARAMETERS };
  const asked = { ...ask(checks.ASK_WEATHER), tools: [tool] };
  const first = await client.messages.create({ ...asked, tool_choice: { type: "any", disable_parallel_tool_use: true } });
  const call = first.content.find((block) => block.type === "tool_use");
  checks.called(call.name, call.input);
  if (first.stop_reason !== "tool_use") throw new Error(`stop_reason: ${first.stop_reason}`);
  const result = { type: "tool_result", tool_use_id: call.id, content: checks.WEATHER };
  const messages = [
    ...asked.messages,
    { role: "assistant", content: first.content },
    { role: "user", content: [result] },
  ];
  checks.said(textOf(await client.messages.create({ ...asked, messages, tool_choice: { type: "none" } })));
}

async function structured() {
  const output_config = { format: zodOutputFormat(checks.Fruit) };
  checks.fits((await client.messages.parse({ ...ask(checks.ASK_FRUIT), output_config })).parsed_output);
}

async function counting() {
  const { model, messages } = ask(checks.QUESTION);
  checks.counted((await client.messages.countTokens({ model, messages })).input_tokens, 1);
}

await checks.report(VERSION, chat, stream, tools, structured, counting);
