/**
 * Where a route's body names other resources, from the API's description: a reference is a text of at most 63 characters
 * without a pattern of its own (libs/resources/reference.ts). So a kind's new reference is tried without an edit here.
 */
import { kinds } from '#libs/kinds';
import type { TriedRoute } from './routes.js';

type Json = any;

/** A way to say something in a body: member names, and 0 for the first item of a list. */
export type Way = readonly (string | 0)[];

export interface ReferencePlace {
  way: Way;
  /** What may be named there; undefined where the description does not say: anything. */
  plural: string | undefined;
  /** Other references of the same object, which may exclude this one. */
  siblings: string[];
}

export function referencesOf(description: Json, { method, template, plural }: TriedRoute): ReferencePlace[] {
  const [, operations] =
    Object.entries<Json>(description.paths).find(([path]) => plainOf(path) === plainOf(template)) ?? [];
  const content = Object.values<Json>(operations?.[method.toLowerCase()]?.requestBody?.content ?? {})[0];
  return content?.schema ? placesIn(description, content.schema, [], plural, 0) : [];
}

/** The description names parameters in its own way. */
const plainOf = (template: string) => template.replaceAll(/\{\w+\}/g, '{}');

function placesIn(description: Json, schema: Json, way: Way, plural: string, depth: number): ReferencePlace[] {
  const { properties, items } = flat(description, schema);
  if (depth > 6)
    throw new Error(`The description of a body is deeper than references are looked for: ${way.join('/')}`);
  if (items) return placesIn(description, items, [...way, 0], plural, depth + 1);
  const all = Object.entries<Json>(properties ?? {});
  const isNamed = ([, inner]: [string, Json]) => isReference(flat(description, listed(description, inner)));
  const named = all.filter(isNamed).map(([name]) => name);
  return all.flatMap(([name, inner]) => {
    if (!named.includes(name)) return placesIn(description, inner, [...way, name], plural, depth + 1);
    const isList = flat(description, inner).items !== undefined;
    const siblings = named.filter((other) => other !== name);
    return [{ way: [...way, name, ...(isList ? [0 as const] : [])], plural: pluralOf(name, plural), siblings }];
  });
}

const listed = (description: Json, schema: Json) => flat(description, schema).items ?? schema;

const isReference = ({ type, maxLength, pattern, format }: Json) =>
  type === 'string' && maxLength === 63 && pattern === undefined && format === undefined;

/** A schema with what it refers to and is composed of. */
function flat(description: Json, schema: Json): Json {
  const named = schema.$ref ? flat(description, resolved(description, schema.$ref)) : {};
  const parts = [...(schema.allOf ?? []), ...(schema.oneOf ?? []), ...(schema.anyOf ?? [])].map((part) =>
    flat(description, part),
  );
  const properties = Object.assign({}, ...[named, ...parts, schema].map((part) => part.properties ?? {}));
  const whole = Object.assign({}, named, ...parts, schema);
  return { ...whole, ...(Object.keys(properties).length > 0 && { properties }) };
}

function resolved(description: Json, ref: string): Json {
  return ref
    .slice(2)
    .split('/')
    .reduce((node, key) => node[key], description);
}

/** `bootDisk` and `disks` name disks; what no kind is called as names one of the route's own kind. */
function pluralOf(name: string, own: string): string {
  const word = name.toLowerCase();
  const isCalled = (kind: { name: string; plural: string }) =>
    [kind.name, kind.plural].some((one) => word.endsWith(one));
  return kinds.find(isCalled)?.plural ?? own;
}

/** The body with a value there; where `alone`, without its siblings. */
export function withReference(body: Json, { way, siblings }: ReferencePlace, value: string, alone: boolean): Json {
  const [first, ...rest] = way;
  if (first === undefined) return value;
  const old = typeof body === 'object' && body !== null ? body : undefined;
  const inner = withReference(old?.[first], { way: rest, siblings, plural: undefined }, value, alone);
  if (first === 0) return [inner];
  const isHere = rest.length === 0 || (rest.length === 1 && rest[0] === 0);
  const others = Object.entries(old ?? {}).filter(([key]) => !(alone && isHere && siblings.includes(key)));
  return { ...Object.fromEntries(others), [first]: inner };
}
