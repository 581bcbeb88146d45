// The openai package for Node.

import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { VERSION } from "openai/version";
import * as checks from "./checks.mjs";

const client = new OpenAI({ baseURL: checks.BASE_URL, apiKey: checks.API_KEY, maxRetries: 0 });
const model = checks.MODEL;
const ask = (content) => ({ model, messages: [{ role: "user", content }], max_tokens: 64, temperature: 0 });

async function chat() {
  const answer = await client.chat.completions.create(ask(checks.QUESTION));
  checks.said(answer.choices[0].message.content);
  checks.counted(answer.usage.prompt_tokens, answer.usage.completion_tokens);
}

async function stream() {
  const pieces = [];
  let usage;
  const asked = { ...ask(checks.QUESTION), stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create(asked)) {
    pieces.push(chunk.choices[0]?.delta.content);
    usage = chunk.usage ?? usage;
  }
  checks.inPieces(pieces);
  checks.counted(usage.prompt_tokens, usage.completion_tokens);
}

async function tools() {
  const tool = { name: checks.TOOL, description: checks.TOOL_SAYS, parameters: checks.PARAMETERS, strict: true };
  const one = { tools: [{ type: "function", function: tool }], parallel_tool_calls: false };
  const asked = { ...ask(checks.ASK_WEATHER), ...one };
  const first = await client.chat.completions.create({ ...asked, tool_choice: "required" });
  const { message, finish_reason } = first.choices[0];
  const [call] = message.tool_calls;
  checks.called(call.function.name, call.function.arguments);
  if (finish_reason !== "tool_calls") throw new Error(`finish_reason: ${finish_reason}`);
  const result = { role: "tool", tool_call_id: call.id, content: checks.WEATHER };
  const messages = [...asked.messages, message, result];
  const second = await client.chat.completions.create({ ...asked, messages, tool_choice: "none" });
  checks.said(second.choices[0].message.content);

  const tool_choice = { type: "function", function: { name: checks.TOOL } };
  const streamed = await client.chat.completions.stream({ ...asked, tool_choice }).finalChatCompletion();
  const [again] = streamed.choices[0].message.tool_calls;
  checks.called(again.function.name, again.function.arguments);
}

async function structured() {
  const response_format = zodResponseFormat(checks.Fruit, "fruit");
  const answer = await client.chat.completions.parse({ ...ask(checks.ASK_FRUIT), response_format });
  checks.fits(answer.choices[0].message.parsed);
}

async function embeddings() {
  const answer = await client.embeddings.create({ model, input: checks.TEXTS });
  checks.embedded(answer.data.map((one) => one.embedding));
}

async function responses() {
  const asked = { model, input: checks.QUESTION, max_output_tokens: 64, temperature: 0 };
  const answer = await client.responses.create(asked);
  checks.said(answer.output_text);
  checks.counted(answer.usage.input_tokens, answer.usage.output_tokens);

  const pieces = [];
  for await (const event of client.responses.stream(asked)) {
    if (event.type === "response.output_text.delta") pieces.push(event.delta);
  }
  checks.inPieces(pieces);

  const text = { format: zodTextFormat(checks.Fruit, "fruit") };
  checks.fits((await client.responses.parse({ ...asked, input: checks.ASK_FRUIT, text })).output_parsed);

  const { TOOL: name, TOOL_SAYS: description, PARAMETERS: parameters } = checks;
  const tools = [{ type: "function", name, description, parameters, strict: true }];
  const input = [{ role: "user", content: checks.ASK_WEATHER }];
  const one = { ...asked, tools, parallel_tool_calls: false };
  const first = await client.responses.create({ ...one, input, tool_choice: "required" });
  const call = first.output.find((item) => item.type === "function_call");
  checks.called(call.name, call.arguments);
  const result = { type: "function_call_output", call_id: call.call_id, output: checks.WEATHER };
  const history = [...input, ...first.output, result];
  const second = await client.responses.create({ ...one, input: history, tool_choice: "none" });
  checks.said(second.output_text);
}

await checks.report(VERSION, chat, stream, tools, structured, embeddings, responses);
