/**
 * What an audit row says of a change beside its name: which fields changed, and the values of those that a kind says are
 * fit to be read by whoever may read the audit. Values of others never stand there: they may be secret (userData, keys).
 */
import type { KindDefinition } from './kind.js';

/** Of every kind; they stand in lists and events, too. */
const common = ['name', 'tags', 'deletionProtection'];
/** Longer values (as JSON) are left out. */
const MAX_VALUE = 2_000;

type Fields = Record<string, unknown>;

/** Undefined where there is nothing to tell. */
export function auditDetails(
  kind: KindDefinition,
  change: { previous?: object; document?: object; body?: object },
): Fields | undefined {
  const { previous, document, body } = change as { previous?: Fields; document?: Fields; body?: Fields };
  const told = kind.audited ?? [];
  if (document && previous) {
    const changed = [...new Set([...Object.keys(previous), ...Object.keys(document)])]
      .filter((field) => JSON.stringify(previous[field]) !== JSON.stringify(document[field]))
      .sort();
    const shown = changed.filter((field) => common.includes(field) || told.includes(field));
    const values = pick(shown, (field) => ({ from: previous[field] ?? null, to: document[field] ?? null }));
    return { changed, ...(values && { values }) };
  }
  const given = document ?? body ?? {};
  const values = pick(
    told.filter((field) => given[field] !== undefined && given[field] !== null),
    (field) => given[field],
  );
  return values && { values };
}

function pick(fields: readonly string[], read: (field: string) => unknown): Fields | undefined {
  const entries = fields
    .map((field) => [field, read(field)] as const)
    .filter(([, value]) => JSON.stringify(value).length <= MAX_VALUE);
  return entries.length > 0 ? Object.fromEntries(entries) : undefined;
}
