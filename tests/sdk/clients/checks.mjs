// What every client written in JavaScript is asked, and how its answers are judged: checks.py says the
// same for Python, and why.

import assert from "node:assert/strict";
import { z } from "zod";

export const BASE_URL = process.env.BASE_URL;
// What clients of Anthropic's API call the base URL has no /v1.
export const ANTHROPIC_URL = BASE_URL.replace(/\/v1$/, "");
export const API_KEY = process.env.API_KEY;
export const MODEL = process.env.MODEL;
const DIMENSIONS = Number(process.env.DIMENSIONS);

export const QUESTION = "Write one sentence about the sea.";
export const ASK_WEATHER = "What is the weather in Paris?";
export const WEATHER = "Sunny, 21 degrees.";
export const ASK_FRUIT = "Describe a banana.";
export const TEXTS = ["The sea is salty.", "A boat leaves the harbour.", "The sea is salty."];

export const Fruit = z.object({ colour: z.enum(["red", "green", "yellow"]), ripe: z.boolean() });
export const TOOL = "get_weather";
export const TOOL_SAYS = "Tells the weather in a city.";
export const Parameters = z.strictObject({
  city: z.enum(["Paris", "Rome", "Oslo"]),
  unit: z.enum(["celsius", "fahrenheit"]),
});
export const PARAMETERS = z.toJSONSchema(Parameters);

/** It is a text with something in it. */
export function said(text) {
  assert(typeof text === "string" && text.trim(), `no text: ${text}`);
}

/** A stream's text came in more than one piece. */
export function inPieces(pieces) {
  const texts = pieces.filter(Boolean);
  assert(texts.length > 1, `the stream came in ${texts.length} pieces: ${texts}`);
  said(texts.join(""));
}

/** The tokens of the prompt and of the answer are told. */
export function counted(prompt, answer) {
  assert(prompt > 0 && answer > 0, `tokens of the prompt: ${prompt}, of the answer: ${answer}`);
}

/** It is a call of the tool, with arguments that fit its schema. */
export function called(name, args) {
  assert.equal(name, TOOL);
  Parameters.parse(typeof args === "string" ? JSON.parse(args) : args);
}

/** It is a fruit, or the JSON of one. */
export function fits(fruit) {
  Fruit.parse(typeof fruit === "string" ? JSON.parse(fruit) : fruit);
}

/** They are the vectors of TEXTS: of the model's dimension, of length 1, equal for equal texts. */
export function embedded(vectors) {
  assert.equal(vectors.length, TEXTS.length);
  const product = (a, b) => a.reduce((sum, number, at) => sum + number * b[at], 0);
  for (const vector of vectors) {
    assert.equal(vector.length, DIMENSIONS);
    assert(Math.abs(product(vector, vector) - 1) < 1e-3, `length ${product(vector, vector)}`);
  }
  const [one, other, same] = vectors;
  assert(product(one, same) > 0.999 && product(one, other) < 0.999);
}

/** Tries each ability and prints a JSON line about it, for clients.py. */
export async function report(version, ...abilities) {
  const tell = (line) => console.log(JSON.stringify(line));
  tell({ version });
  for (const ability of abilities) {
    let wrong = null;
    try {
      await ability();
    } catch (error) {
      wrong = `${error.stack ?? error}\n${error.responseBody ?? ""}`;
    }
    tell({ ability: ability.name, wrong });
  }
}
