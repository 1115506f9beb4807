// What is done to features while the model writes: as the address, the request, curl and Python have it.
import { url, type Steering } from "./api";

export type How = "add" | "on" | "off";
export interface Edit {
  feature: number;
  how: How;
  strength: number;
}

/** How many times a direction is added where nobody says. */
export const STRENGTH = 3;

export const HOWS: Record<How, string> = { add: "add its direction", on: "hold it on", off: "turn it off" };

export const written = ({ feature, how, strength }: Edit): string => `${feature}:${how}${how === "off" ? "" : `:${strength}`}`;

export function read(text: string): Edit | undefined {
  const [feature, how = "add", strength = String(STRENGTH)] = text.split(":");
  if (!/^\d+$/.test(feature ?? "") || !(how in HOWS) || !Number.isFinite(Number(strength))) return undefined;
  return { feature: Number(feature), how: how as How, strength: Number(strength) };
}

export interface Settings {
  text: string;
  edits: Edit[];
  tokens: "last" | "all";
  max_new_tokens: number;
  temperature: number;
  seed: number;
}

export function bodyOf({ edits, ...settings }: Settings): Steering {
  return {
    ...settings,
    add: edits.filter(({ how }) => how === "add").map(({ feature, strength }) => ({ feature, strength })),
    clamp: edits.filter(({ how }) => how === "on").map(({ feature, strength }) => ({ feature, value: strength })),
    ablate: edits.filter(({ how }) => how === "off").map(({ feature }) => feature),
  };
}

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

export function asCurl(id: string, settings: Settings, hasKey: boolean): string {
  const key = hasKey ? ' -H "Authorization: Bearer $KEY"' : "";
  const at = quoted(url(`encoders/${encodeURIComponent(id)}/texts/steer`));
  return `curl -sN ${at}${key} \\\n  -H "Content-Type: application/json" -d ${quoted(JSON.stringify(bodyOf(settings)))}`;
}

export function asPython(id: string, settings: Settings, hasKey: boolean): string {
  const { edits, text, tokens, max_new_tokens, temperature, seed } = settings;
  const dict = (how: How) => edits.filter((edit) => edit.how === how).map(({ feature, strength }) => `${feature}: ${strength}`).join(", ");
  const off = edits.filter(({ how }) => how === "off").map(({ feature }) => feature).join(", ");
  const given = [dict("add") && `add={${dict("add")}}`, dict("on") && `clamp={${dict("on")}}`, off && `ablate=[${off}]`].filter(Boolean);
  // In ASCII, so that a string of JSON is one of Python, too.
  const literal = JSON.stringify(text).replace(/[\u007f-\uffff]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  return [
    ...(hasKey ? ["import os", ""] : []),
    "from bae_ray.client import Client",
    "",
    `client = Client(${JSON.stringify(new URL(".", document.baseURI).href.replace(/\/$/, ""))}${hasKey ? ', key=os.environ["KEY"]' : ""})`,
    `both = client.steer(${JSON.stringify(id)}, ${pythonText(literal)}, ${[...given, `tokens="${tokens}"`, `max_new_tokens=${max_new_tokens}`, `temperature=${temperature}`, `seed=${seed}`].join(", ")})`,
    'print(both.steered.text, "|", both.plain.text)',
  ].join("\n");
}

/** JSON writes a character beyond the first 65,536 as two; Python would read two. */
function pythonText(literal: string): string {
  return literal.replace(/\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})/g, (_, high: string, low: string) => {
    const code = (parseInt(high, 16) - 0xd800) * 0x400 + parseInt(low, 16) - 0xdc00 + 0x10000;
    return "\\U" + code.toString(16).padStart(8, "0");
  });
}
