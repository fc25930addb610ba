/**
 * What a migration may not do while servers of the version before still work: docs/migrations.md says why. Reads SQL as text, well
 * enough for the statements that migrations are made of; bodies of functions are not looked into.
 */

/** From this one on; those before were never applied under load. */
export const FIRST_UNDER_RULES = 26;

export interface Offence {
  rule: string;
  statement: string;
}

/** Tables that may have millions of rows: what reads or writes all of them, or keeps writers out meanwhile, takes minutes. */
const large = [
  ...[
    'resource',
    'resource_tag',
    'job',
    'job_step',
    'event',
    'audit',
    'audit_digest',
    'lease',
    'placement',
    'dependency',
  ],
  ...['metric_sample', 'idempotency', 'network', 'instance', 'disk'],
];

interface Statement {
  /** Comments before it. */
  comment: string;
  /** Without comments, quoted bodies and superfluous space; in lower case. */
  text: string;
}

/** Statements, split at semicolons outside of strings, bodies and comments. */
export function statementsOf(sql: string): Statement[] {
  const token = /--[^\n]*|\/\*[\s\S]*?\*\/|\$(\w*)\$[\s\S]*?\$\1\$|'(?:[^']|'')*'|"[^"]*"|;|[^;'"$/-]+|[$/-]/g;
  const statements: Statement[] = [];
  let [comment, text, atomic] = ['', '', 0];
  for (const [part] of sql.matchAll(token)) {
    if (part.startsWith('--') || part.startsWith('/*')) {
      if (text.trim() === '') comment += `${part.replace(/^--\s?/, '')}\n`;
    } else if (part === ';' && atomic === 0) {
      if (text.trim() !== '') statements.push({ comment, text: tidy(text) });
      [comment, text] = ['', ''];
    } else text += part.startsWith('$') && part.length > 1 ? "''" : part;
    // The body of a function in standard SQL has semicolons of its own.
    if (/\bbegin\s+atomic\b/i.test(part)) atomic += 1;
    if (atomic > 0 && /\bend\s*$/i.test(part)) atomic -= 1;
  }
  if (text.trim() !== '') statements.push({ comment, text: tidy(text) });
  return statements;
}

function tidy(text: string): string {
  return text.replace(/\s+/g, ' ').trim().toLowerCase();
}

interface Rule {
  name: string;
  /** True: refused. `own`: tables, views and functions that this migration itself makes. */
  breaks(text: string, own: ReadonlySet<string>, all: readonly string[]): boolean;
}

/** The table that an `alter table` changes, and its actions. */
function alteration(text: string): { table: string; actions: string } | undefined {
  const match = /^alter table (?:if exists )?(?:only )?([\w.]+) (.*)$/s.exec(text);
  return match ? { table: match[1]!, actions: match[2]! } : undefined;
}

/** An `alter table` of a table that was there before, whose actions match. */
const altering = (pattern: RegExp) => (text: string, own: ReadonlySet<string>) => {
  const alter = alteration(text);
  return alter !== undefined && !own.has(alter.table) && pattern.test(alter.actions);
};

/** Each `add column`, up to the next action. */
function addedColumns(actions: string): string[] {
  return actions.split(/,?\s*\badd (?=column\b)/).filter((part) => part.startsWith('column'));
}

const functionName = /^create (?:or replace )?(?:function|procedure) ([\w.]+)\s*\(/;

export const rules: readonly Rule[] = [
  {
    name: 'removes what servers of the version before use',
    breaks: (text, own, all) => {
      const dropped = /^drop (table|view|function|procedure|type|sequence) (?:if exists )?([\w.]+)/.exec(text);
      if (!dropped) return altering(/\bdrop column\b|\brename\b/)(text, own);
      const [, what, name] = dropped;
      // Made again in the same transaction, nobody misses it.
      return !own.has(name!) && !all.some((one) => new RegExp(`^create (or replace )?${what} ${name}\\b`).test(one));
    },
  },
  {
    name: 'demands what servers of the version before do not write',
    breaks: (text, own) => {
      const alter = alteration(text);
      if (!alter || own.has(alter.table)) return false;
      const isBare = (column: string) => /\bnot null\b/.test(column) && !/\bdefault\b|\bgenerated\b/.test(column);
      return (
        addedColumns(alter.actions).some(isBare) ||
        /\balter (column )?\w+ (set not null|drop default|(set data )?type)\b/.test(alter.actions) ||
        /\badd (constraint \w+ )?(check|foreign key|unique|primary key|exclude)\b/.test(alter.actions)
      );
    },
  },
  {
    name: 'takes rights away',
    breaks: (text, own) => {
      const objects = /^revoke .* on (?:table|function|procedure|sequence)? ?(.*?) from /.exec(text)?.[1];
      if (objects === undefined) return /^revoke\b/.test(text);
      const names = objects.replace(/\([^)]*\)/g, '').split(',');
      return names.some((name) => !own.has(name.trim()));
    },
  },
  {
    name: 'keeps everybody out for long',
    breaks: (text, own) => {
      if (/^(truncate|cluster|reindex|vacuum|lock)\b/.test(text)) return true;
      const index = /^create (?:unique )?index (?:if not exists )?\w+ on (?:only )?([\w.]+)/.exec(text);
      if (index) return large.includes(index[1]!) && !own.has(index[1]!);
      const change = /^(?:update|delete from) (?:only )?([\w.]+)/.exec(text);
      return change !== null && large.includes(change[1]!) && !own.has(change[1]!);
    },
  },
  {
    name: 'makes a call ambiguous: a function of that name exists, and differs in parameters that have defaults',
    breaks: (text) => {
      const parameters = functionName.test(text) ? /\((.*?)\) returns/.exec(text)?.[1] : undefined;
      return parameters !== undefined && /^create function/.test(text) && /\bdefault\b|:?=/.test(parameters);
    },
  },
];

/** Why somebody found it safe: a comment before the statement, at least a sentence. */
const reasoned = /^safe: .{20,}/ms;

/** What a migration does against the rules, without a comment that says why it may. */
export function offencesOf(sql: string): Offence[] {
  const statements = statementsOf(sql);
  const all = statements.map(({ text }) => text);
  const own = new Set(
    all.flatMap(
      (text) =>
        /^create (?:or replace )?(?:temporary )?(?:table|view|function|procedure) (?:if not exists )?([\w.]+)/.exec(
          text,
        )?.[1] ?? [],
    ),
  );
  return statements.flatMap(({ comment, text }) =>
    reasoned.test(comment)
      ? []
      : rules
          .filter((rule) => rule.breaks(text, own, all))
          .map(({ name }) => ({ rule: name, statement: text.slice(0, 200) })),
  );
}
