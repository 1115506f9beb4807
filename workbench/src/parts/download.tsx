// What is shown, as a file.
import { csv } from "../table";

export function Download({ name, rows, json }: { name: string; rows: () => object[]; json?: () => unknown }) {
  return (
    <span class="downloads">
      <button type="button" onClick={() => save(`${name}.csv`, csv(rows()), "text/csv")}>
        CSV
      </button>
      <button
        type="button"
        onClick={() => save(`${name}.json`, JSON.stringify(json ? json() : rows(), null, 1), "application/json")}
      >
        JSON
      </button>
    </span>
  );
}

function save(name: string, content: string, type: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
