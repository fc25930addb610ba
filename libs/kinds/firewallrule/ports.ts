/** Ports as rules name them: `80`, or `8000-8100`. */
export interface PortRange {
  from: number;
  to: number;
}

const shape = /^([1-9]\d{0,4})(?:-([1-9]\d{0,4}))?$/;

/** The range, or undefined where it is none from 1 to 65535. */
export function parsePorts(text: string): PortRange | undefined {
  const [, first, last] = shape.exec(text) ?? [];
  if (first === undefined) return undefined;
  const from = Number(first);
  const to = Number(last ?? first);
  return from <= to && to <= 65_535 ? { from, to } : undefined;
}
