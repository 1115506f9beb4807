// The table of the sweep: asked for once, and again after a while; its cells, and the settings in which runs differ.
import { get, type Sweep } from "./api";
import { rowsOf, text, type Row } from "./table";

const KEPT_MS = 10_000;

export interface Runs extends Sweep {
  rows: Row[];
}

let last: { at: number; runs: Promise<Runs> } | undefined;

export function loadSweep(): Promise<Runs> {
  if (!last || Date.now() - last.at > KEPT_MS) {
    const runs = get<Sweep>("sweep").then((sweep) => ({ ...sweep, rows: rowsOf(sweep.columns) }));
    last = { at: Date.now(), runs };
    runs.catch(() => (last = undefined));
  }
  return last.runs;
}

/** The settings in which a run differs from others, but for `aside`. */
export function variant(row: Row, settings: string[], aside: string[] = []): string {
  const told = settings.filter((name) => !aside.includes(name) && row[name] !== null && row[name] !== undefined);
  return told.map((name) => `${name.replace(/^(autoencoder|training)\./, "")}=${row[name]}`).join(", ");
}

export const isOf = (row: Row, layer: string, position: string): boolean =>
  text(row, "layer") === layer && text(row, "position") === position;
