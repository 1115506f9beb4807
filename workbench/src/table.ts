// A table of columns, as the service sends it, and its rows.
import type { Value } from "./numbers";

export type Row = Record<string, Value>;

export function rowsOf(columns: Record<string, Value[]>): Row[] {
  const names = Object.keys(columns);
  const length = columns[names[0] ?? ""]?.length ?? 0;
  return Array.from({ length }, (_, i) => Object.fromEntries(names.map((name) => [name, columns[name]![i]])));
}

export const text = (row: Row, name: string): string => String(row[name] ?? "");

export function number(row: Row, name: string): number | undefined {
  const value = row[name];
  return typeof value === "number" ? value : undefined;
}

/** Values in the order of a reader: numbers by size, then words. */
export function inOrder(values: Iterable<Value>): string[] {
  const isNumber = (value: string) => value !== "" && !Number.isNaN(Number(value));
  const before = (a: string, b: string) =>
    isNumber(a) && isNumber(b) ? Number(a) - Number(b) : isNumber(a) ? -1 : isNumber(b) ? 1 : a.localeCompare(b);
  return [...new Set([...values].map(String))].sort(before);
}

export function csv(rows: object[]): string {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const quoted = (value: unknown) => {
    const plain = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  return [names, ...rows.map((row) => names.map((name) => (row as Record<string, unknown>)[name]))]
    .map((cells) => cells.map(quoted).join(",")).join("\r\n") + "\r\n";
}
