/** Tests that a kind has only where something holds of it: elsewhere they are not there, rather than skipped. */
import { test } from 'vitest';

type Declare = (name: string, work: () => Promise<void> | void, timeoutMs?: number) => void;

export function testWhere(holds: unknown): Declare {
  return holds ? (name, work, timeoutMs) => test(name, work, timeoutMs) : () => undefined;
}
