// Tokens of a text, each as strongly coloured as the feature is present.
import { strength } from "../colours";
import { shown } from "../numbers";

export interface Context {
  pieces: string[];
  values: (number | null)[];
  at: number;
}

export function TokensInContext({ context, least, most }: { context: Context; least: number; most: number }) {
  return (
    <p class="tokens">
      {context.pieces.map((piece, i) => {
        const value = context.values[i];
        const part = value === null || value === undefined || most <= least ? 0 : (value - least) / (most - least);
        const said = value === null || value === undefined ? "not measured" : shown(value);
        const token = <span style={part > 0 ? strength(part) : {}} title={said}>{visible(piece)}</span>;
        return i === context.at ? <mark>{token}</mark> : token;
      })}
    </p>
  );
}

/** A token whose spaces can be seen. */
export const visible = (piece: string): string => piece.replaceAll("\n", "⏎").replaceAll("\t", "⇥");
