// Light, dark, or as the system has it; and a hook that says when that changes.
import { useEffect, useState } from "preact/hooks";

export type Theme = "auto" | "light" | "dark";
const STORED = "bae_ray theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export const chosen = (): Theme => (localStorage.getItem(STORED) as Theme | null) ?? "auto";

export function choose(theme: Theme): void {
  localStorage.setItem(STORED, theme);
  apply();
}

export function apply(): void {
  const theme = chosen();
  document.documentElement.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
  dispatchEvent(new Event("themechange"));
}

system.addEventListener("change", apply);

export function useTheme(): string {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? "light");
  useEffect(() => {
    const changed = () => setTheme(document.documentElement.dataset.theme ?? "light");
    addEventListener("themechange", changed);
    return () => removeEventListener("themechange", changed);
  }, []);
  return theme;
}
