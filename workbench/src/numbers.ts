// How numbers and values are written.
export type Value = string | number | boolean | null | undefined;

export function shown(value: Value, decimals?: number): string {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value !== "number") return String(value);
  if (decimals !== undefined) return value.toFixed(decimals);
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 0.001 && Math.abs(value) < 1e5 ? String(Number(value.toPrecision(3))) : value.toPrecision(3);
}

export const share = (value: number | null | undefined): string =>
  value === null || value === undefined ? "–" : `${shown(100 * value)} %`;

export function mean(values: number[]): number | undefined {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : undefined;
}

/** The value below which a share of the sorted values lies. */
export function quantile(sorted: number[], at: number): number {
  return sorted[Math.round(at * (sorted.length - 1))] ?? 0;
}
