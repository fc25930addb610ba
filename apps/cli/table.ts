/** Aligned columns for people. */

/** Rows under their headings; a column is as wide as its widest cell. */
export function table(headings: readonly string[], rows: readonly (readonly unknown[])[]): string {
  const cells = [headings, ...rows].map((row) => row.map(cell));
  const widths = headings.map((_, column) => Math.max(...cells.map((row) => [...(row[column] ?? '')].length)));
  return cells
    .map((row) =>
      row
        .map((text, column) => pad(text, widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `name  value` lines. */
export function fields(entries: Record<string, unknown>): string {
  const width = Math.max(...Object.keys(entries).map((key) => key.length));
  return Object.entries(entries)
    .map(([key, value]) => `${key.padEnd(width)}  ${cell(value)}`.trimEnd())
    .join('\n');
}

function pad(text: string, width: number): string {
  return text + ' '.repeat(width - [...text].length);
}

/** One line, without control characters: names and messages may come from anywhere. */
export function oneLine(text: string): string {
  return text.replaceAll(/\p{Cc}+/gu, ' ');
}

function cell(value: unknown): string {
  if (value === null || value === undefined) return '-';
  if (value instanceof Date) return value.toISOString();
  const text = Array.isArray(value) ? value.join(' ') : typeof value === 'object' ? pairs(value) : String(value);
  return text === '' ? '-' : oneLine(text);
}

function pairs(value: object): string {
  return Object.entries(value)
    .map(([key, text]) => `${key}=${typeof text === 'object' ? JSON.stringify(text) : text}`)
    .join(' ');
}
