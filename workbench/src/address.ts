// The address of a view: a path and a query behind the #, so that each view can be shared and the service sees none.
import { useEffect, useState } from "preact/hooks";

export interface Address {
  path: string[];
  query: URLSearchParams;
}

type Values = Record<string, string | number | string[] | undefined>;

export function parse(hash: string): Address {
  const [path = "", query = ""] = hash.replace(/^#/, "").split(/\?(.*)/s);
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

export function link(path: (string | number)[], values: Values = {}): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (Array.isArray(value)) value.forEach((one) => query.append(name, one));
    else if (value !== undefined && value !== "") query.set(name, String(value));
  }
  const text = query.toString();
  return "#/" + path.map((part) => encodeURIComponent(part)).join("/") + (text ? "?" + text : "");
}

export function useAddress(): Address {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const changed = () => setHash(location.hash);
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return parse(hash);
}

/** Say in the address what a view shows, without a step in the browser's history. */
export function remember(path: (string | number)[], values: Values): void {
  const to = link(path, values);
  if (to === location.hash) return;
  history.replaceState(null, "", to);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
