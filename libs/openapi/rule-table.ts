/** What each of class-validator's rules means to a client: the code and the words of its refusal, and its JSON Schema. */
import type { ValidationArguments } from 'class-validator';
import type { Rule } from './dto-plan.js';
import type { JsonSchema } from './json-schema.js';

interface RuleEntry {
  code: string;
  /** Without the field's name, which the pointer says. */
  message?: (constraints: readonly any[]) => string;
  schema?: (constraints: readonly any[]) => JsonSchema;
}

const wrongType = (message: string, schema: JsonSchema): RuleEntry => ({
  code: 'wrong_type',
  message: () => message,
  schema: () => schema,
});

const format = (message: string, schema: JsonSchema = {}): RuleEntry => ({
  code: 'invalid_format',
  message: () => message,
  schema: () => schema,
});

const values = (list: readonly unknown[]) => list.map((value) => JSON.stringify(value)).join(', ');
const characters = (count: number) => `${count} character${count === 1 ? '' : 's'}`;
const items = (count: number) => `${count} item${count === 1 ? '' : 's'}`;

const table: Record<string, RuleEntry> = {
  isString: wrongType('must be a string', { type: 'string' }),
  isInt: wrongType('must be a whole number', { type: 'integer' }),
  isNumber: wrongType('must be a number', { type: 'number' }),
  isBoolean: wrongType('must be true or false', { type: 'boolean' }),
  isObject: wrongType('must be an object', { type: 'object' }),
  isArray: wrongType('must be a list', { type: 'array' }),
  isDefined: { code: 'required', message: () => 'is required' },
  isNotEmpty: { code: 'empty', message: () => 'must not be empty', schema: () => ({ minLength: 1 }) },
  isNotEmptyObject: { code: 'empty', message: () => 'must not be empty', schema: () => ({ minProperties: 1 }) },
  min: { code: 'out_of_range', message: ([n]) => `must be at least ${n}`, schema: ([n]) => ({ minimum: n }) },
  max: { code: 'out_of_range', message: ([n]) => `must be at most ${n}`, schema: ([n]) => ({ maximum: n }) },
  isPositive: { code: 'out_of_range', message: () => 'must be more than 0', schema: () => ({ exclusiveMinimum: 0 }) },
  isNegative: { code: 'out_of_range', message: () => 'must be less than 0', schema: () => ({ exclusiveMaximum: 0 }) },
  isDivisibleBy: {
    code: 'out_of_range',
    message: ([n]) => `must be a multiple of ${n}`,
    schema: ([n]) => ({ multipleOf: n }),
  },
  minLength: {
    code: 'too_short',
    message: ([n]) => `must have at least ${characters(n)}`,
    schema: ([n]) => ({ minLength: n }),
  },
  maxLength: {
    code: 'too_long',
    message: ([n]) => `must have at most ${characters(n)}`,
    schema: ([n]) => ({ maxLength: n }),
  },
  isLength: {
    code: 'too_long',
    message: ([min, max]) =>
      `must have ${max === undefined ? `at least ${characters(min)}` : `${min} to ${characters(max)}`}`,
    schema: ([min, max]) => ({ minLength: min, ...(max !== undefined && { maxLength: max }) }),
  },
  arrayMinSize: {
    code: 'too_few',
    message: ([n]) => `must have at least ${items(n)}`,
    schema: ([n]) => ({ minItems: n }),
  },
  arrayMaxSize: {
    code: 'too_many',
    message: ([n]) => `must have at most ${items(n)}`,
    schema: ([n]) => ({ maxItems: n }),
  },
  arrayNotEmpty: { code: 'too_few', message: () => 'must have at least 1 item', schema: () => ({ minItems: 1 }) },
  arrayUnique: {
    code: 'invalid_value',
    message: () => 'must not have an item twice',
    schema: () => ({ uniqueItems: true }),
  },
  isEnum: {
    code: 'invalid_value',
    message: ([, list]) => `must be one of ${values(list)}`,
    schema: ([, list]) => ({ enum: list }),
  },
  isIn: {
    code: 'invalid_value',
    message: ([list]) => `must be one of ${values(list)}`,
    schema: ([list]) => ({ enum: [...list] }),
  },
  equals: {
    code: 'invalid_value',
    message: ([value]) => `must be ${JSON.stringify(value)}`,
    schema: ([value]) => ({ const: value }),
  },
  matches: {
    code: 'invalid_format',
    message: ([pattern]) => `must match ${new RegExp(pattern)}`,
    schema: ([pattern]) => patternSchema(pattern),
  },
  isIp: {
    code: 'invalid_format',
    message: ([version]) => `must be an IP${version ? `v${version}` : ''} address`,
    schema: ([version]) => ipSchema(version),
  },
  isUuid: format('must be a UUID', { format: 'uuid' }),
  isEmail: format('must be an e-mail address', { format: 'email' }),
  isUrl: format('must be a URL', { format: 'uri' }),
  isFqdn: format('must be a fully qualified domain name', { format: 'hostname' }),
  isRfc3339: format('must be a time as RFC 3339 says', { format: 'date-time' }),
  isIso8601: format('must be a time as ISO 8601 says'),
  isDateString: format('must be a time as ISO 8601 says'),
  isBase64: format('must be base64', { contentEncoding: 'base64' }),
  isHexadecimal: format('must be hexadecimal digits', { pattern: '^(0[xXhH])?[0-9a-fA-F]+$' }),
  isMacAddress: format('must be a MAC address such as 52:54:00:12:34:56', {
    pattern: '^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}$',
  }),
  isPort: format('must be a port number', { pattern: '^[0-9]{1,5}$' }),
};

function patternSchema(pattern: RegExp | string): JsonSchema {
  const expression = new RegExp(pattern);
  return expression.flags.replace('u', '') === '' ? { pattern: expression.source } : {};
}

function ipSchema(version: unknown): JsonSchema {
  if (String(version) === '4') return { format: 'ipv4' };
  if (String(version) === '6') return { format: 'ipv6' };
  return { anyOf: [{ format: 'ipv4' }, { format: 'ipv6' }] };
}

function entryOf(rule: Rule): RuleEntry | undefined {
  return Object.hasOwn(table, rule.name) ? table[rule.name] : undefined;
}

/** Rules that only ask for a type; they come first, and when one fails the others say nothing of use. */
export function isTypeRule(rule: Rule): boolean {
  return entryOf(rule)?.code === 'wrong_type';
}

/** The stable code of a rule's refusal of a value. */
export function codeOf(rule: Rule, value: unknown): string {
  if (rule.context.code) return rule.context.code;
  if (value === '') return 'empty';
  const entry = entryOf(rule);
  if (rule.name === 'isLength' && typeof value === 'string') {
    return [...value].length < (rule.constraints[0] ?? 0) ? 'too_short' : 'too_long';
  }
  return entry?.code ?? (rule.name.startsWith('is') ? 'invalid_format' : 'invalid_value');
}

/** The words of a rule's refusal: the DTO author's, else ours, else class-validator's without the field's name. */
export function messageOf(rule: Rule, args: ValidationArguments): string {
  const own = rule.hasOwnMessage ? undefined : entryOf(rule)?.message?.(rule.constraints);
  if (own) return own;
  const text = rule.constraints.reduce<string>(
    (message, constraint, index) => message.replaceAll(`$constraint${index + 1}`, () => String(constraint)),
    rule.messageOf(args),
  );
  return text.replace(/^(each value in )?\$property /, '').replaceAll('$property', () => args.property);
}

/** What a rule says in JSON Schema; empty for what it cannot say. */
export function schemaOfRule(rule: Rule): JsonSchema {
  return { ...entryOf(rule)?.schema?.(rule.constraints), ...rule.context.schema };
}
