// The service's API: its answers by type, its errors, and the key that it may ask for.
import { EventSourceParserStream } from "eventsource-parser/stream";
import type { components } from "./api-types";

type Schemas = components["schemas"];
export type Sweep = Schemas["SweepAnswer"];
export type Matched = Schemas["MatchedAnswer"];
export type Run = Schemas["RunAnswer"];
export type Encoder = Schemas["EncoderInfo"];
export type EncoderList = Schemas["EncoderList"];
export type FeatureList = Schemas["FeatureList"];
export type FeatureRow = Schemas["FeatureRow"];
export type Feature = Schemas["FeatureAnswer"];
export type Texts = Schemas["TextsAnswer"];
export type Token = Schemas["Token"];
export type Steering = Partial<Schemas["SteerBody"]> & { text: string };
export type Steered = Schemas["SteerAnswer"];
export type SteerEvent =
  | { event: "token"; data: Schemas["SteerToken"] }
  | { event: "end"; data: Steered };

const KEY = "bae_ray key";

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
  ) {
    super(detail);
  }

  /** Whether the same may be answered in a moment. */
  get passes(): boolean {
    return [0, 429, 503].includes(this.status) && this.code !== "encoder_broken";
  }
}

export const url = (path: string): string => new URL("v1/" + path, document.baseURI).href;
export const hasKey = (): boolean => Boolean(sessionStorage.getItem(KEY));
export const setKey = (key: string): void => sessionStorage.setItem(KEY, key);

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await call(path, { signal })).json();
}

export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  return (await call(path, sent(body, signal))).json();
}

/** The events of an answer as they come. Ends the request where the signal is aborted. */
export async function* stream(path: string, body: unknown, signal: AbortSignal): AsyncGenerator<SteerEvent> {
  const answer = await call(path, sent(body, signal));
  const events = answer.body!.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
  const reader = events.getReader();
  let ended = false;
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      const data = JSON.parse(next.value.data);
      if (next.value.event === "problem") throw new ApiError(data.status, data.code, data.detail);
      ended = next.value.event === "end";
      yield { event: next.value.event, data } as SteerEvent;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
  if (!ended) throw new ApiError(0, "cut", "The answer was cut off: the service has gone, or the connection.");
}

function sent(body: unknown, signal?: AbortSignal): RequestInit {
  return { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal };
}

async function call(path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  const key = sessionStorage.getItem(KEY);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let answer: Response;
  try {
    answer = await fetch(url(path), { ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", "The service does not answer. It may be starting again.");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new ApiError(answer.status, problem.code ?? "", problem.detail ?? `The service answered with ${answer.status}.`);
}
