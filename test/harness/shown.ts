/**
 * Compares an answer with what a page shows of it. JSON is compared part by part, in its order, and `…` stands for anything:
 * fields, entries, a value, a piece of a string. Ids, times, MACs, digests, keys and IPv6 addresses count by their shape;
 * but one id on the page is one id of the answers, throughout. All else must be the same letter by letter.
 */

/** Ids of the page and the real ones that they stand for, both ways. */
export class Ids {
  constructor(
    private real = new Map<string, string>(),
    private shown = new Map<string, string>(),
  ) {}

  copy(): Ids {
    return new Ids(new Map(this.real), new Map(this.shown));
  }

  /** Knows from now on what `other` knows. */
  take(other: Ids): void {
    this.real = other.real;
    this.shown = other.shown;
  }

  /** Whether `shown` can stand for `real`; from then on it does. */
  bind(shown: string, real: string): boolean {
    if ((this.real.get(shown) ?? real) !== real || (this.shown.get(real) ?? shown) !== shown) return false;
    this.real.set(shown, real);
    this.shown.set(real, shown);
    return true;
  }

  /** A command of the page with real ids; undefined where no answer before it had one of them. */
  fill(command: string): string | undefined {
    const ids = new RegExp(shapes.id, 'g');
    if (command.match(ids)?.some((id) => !this.real.has(id))) return undefined;
    return command.replaceAll(ids, (id) => this.real.get(id)!);
  }
}

const shapes = {
  any: '…',
  id: '[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}',
  time: '\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z',
  mac: '(?:[0-9a-f]{2}:){5}[0-9a-f]{2}',
  digest: '\\b[0-9a-f]{64}\\b',
  key: '[A-Za-z0-9+/]{43}=',
  address6: '\\b(?:[0-9a-f]{1,4}:){2,7}(?::?[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*)?',
};
const names = Object.keys(shapes) as (keyof typeof shapes)[];
const anyShape = new RegExp(
  Object.entries(shapes)
    .map(([name, shape]) => `(?<${name}>${shape})`)
    .join('|'),
  'g',
);
const literally = (text: string) => text.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&');

/** Whether a text is the one that is shown. Where it is, its ids are bound. */
export function sameText(shown: string, real: string, ids: Ids): boolean {
  let pattern = '';
  let end = 0;
  const idsShown: string[] = [];
  for (const match of shown.matchAll(anyShape)) {
    const shape = names.find((name) => match.groups![name] !== undefined)!;
    if (shape === 'id') idsShown.push(match[0]);
    pattern += literally(shown.slice(end, match.index));
    pattern += shape === 'any' ? '[^]*?' : shape === 'id' ? `(${shapes.id})` : `(?:${shapes[shape]})`;
    end = match.index + match[0].length;
  }
  const found = new RegExp(`^${pattern}${literally(shown.slice(end))}$`).exec(real);
  return found !== null && idsShown.every((id, at) => ids.bind(id, found[at + 1]!));
}

/** JSON as a page shows it. */
export type Shown =
  | { is: 'any' }
  | { is: 'text'; text: string }
  | { is: 'plain'; value: number | boolean | null }
  | { is: 'list'; items: Part[] }
  | { is: 'object'; items: Part[] };
/** An entry or a field; `any`: as many as there are. */
type Part = { any: true } | { any?: undefined; key: string; value: Shown };

/** Reads JSON with `…` in it. Throws with the place that it cannot read. */
export function readShown(text: string): Shown {
  let at = 0;
  const fail = (wanted: string): never => {
    throw new Error(`the page shows no JSON here, where there should be ${wanted}: ${text.slice(at, at + 60)}`);
  };
  const take = (pattern: RegExp): string | undefined => {
    const sticky = new RegExp(`\\s*(${pattern.source})`, 'y');
    sticky.lastIndex = at;
    const found = sticky.exec(text);
    if (found) at = sticky.lastIndex;
    return found?.[1];
  };
  const string = () => take(/"(?:[^"\\\n]|\\.)*"/);
  const parts = (end: RegExp, keyed: boolean): Part[] => {
    const items: Part[] = [];
    while (!take(end)) {
      if (items.length > 0 && !take(/,/)) fail('a comma or the end');
      if (take(/…/)) items.push({ any: true });
      else if (!keyed) items.push({ key: String(items.length), value: value() });
      else {
        const key = string() ?? fail('a field');
        if (!take(/:/)) fail('a colon');
        items.push({ key: JSON.parse(key), value: value() });
      }
    }
    return items;
  };
  const value = (): Shown => {
    if (take(/…/)) return { is: 'any' };
    if (take(/\{/)) return { is: 'object', items: parts(/\}/, true) };
    if (take(/\[/)) return { is: 'list', items: parts(/\]/, false) };
    const quoted = string();
    if (quoted !== undefined) return { is: 'text', text: JSON.parse(quoted) };
    const plain = take(/-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null/) ?? fail('a value');
    return { is: 'plain', value: JSON.parse(plain) };
  };
  const whole = value();
  if (text.slice(at).trim() !== '') fail('the end');
  return whole;
}

/** What is different between an answer and what is shown of it, with its place; undefined: nothing. */
export function difference(shown: Shown, real: unknown, ids: Ids, place = ''): string | undefined {
  const differs = (what: string) =>
    `${place || 'the answer'}: shown is ${what}, the answer has ${JSON.stringify(real)}`;
  if (shown.is === 'any') return undefined;
  if (shown.is === 'plain') return shown.value === real ? undefined : differs(String(shown.value));
  if (shown.is === 'text') {
    if (typeof real === 'string' && sameText(shown.text, real, ids)) return undefined;
    return differs(JSON.stringify(shown.text));
  }
  if (typeof real !== 'object' || real === null || Array.isArray(real) !== (shown.is === 'list'))
    return differs(shown.is === 'list' ? 'a list' : 'an object');
  return partsDifference(shown.items, Object.entries(real), ids, place, shown.is === 'list');
}

/** Entry by entry, in order. What `…` stands for ends where the next shown field is; a list's next entry is the first that fits. */
function partsDifference(
  items: Part[],
  real: [string, unknown][],
  ids: Ids,
  place: string,
  list: boolean,
): string | undefined {
  let at = 0;
  let gap = false;
  for (const item of items) {
    if (item.any) {
      gap = true;
      continue;
    }
    let inside: string | undefined;
    const fits = ([key, value]: [string, unknown]) => {
      if (!list && key !== item.key) return false;
      inside = difference(item.value, value, ids, `${place}/${key}`);
      return !list || inside === undefined;
    };
    const found = gap ? real.findIndex((entry, index) => index >= at && fits(entry)) : at;
    const next = real[at];
    if (!gap && next && !fits(next) && list) return inside;
    if (inside !== undefined) return inside;
    const [key] = real[found] ?? [];
    if (found < 0 || key === undefined || (!list && key !== item.key))
      return `${place}/${item.key}: is shown, but the answer ${key === undefined ? 'has it not (here)' : `has “${key}” here`}`;
    at = found + 1;
    gap = false;
  }
  if (gap || at >= real.length) return undefined;
  return `${place}/${real[at]![0]}: is in the answer and not shown`;
}
