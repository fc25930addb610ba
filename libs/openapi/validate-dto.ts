/**
 * From a parsed JSON body to an instance of its DTO class, or to the list of everything that is wrong with it, each with its
 * pointer. The rules are class-validator's; the walk is ours, because class-validator says neither which item of a list is
 * wrong nor refuses a list where an object belongs, and because a body must never be able to make it throw.
 * No value is converted: "5" is no number.
 */
import { toUSVString } from 'node:util';
import type { ValidationArguments } from 'class-validator';
import type { FieldError } from '#libs/core';
import type { Finding } from './describe.js';
import { type DtoClass, type DtoPlan, type PropertyPlan, type PropertyType, planOf, type Rule } from './dto-plan.js';
import { codeOf, isTypeRule, messageOf } from './rule-table.js';

export interface ValidateDtoOptions {
  /** Fields that answers have and bodies must not. */
  readOnly?: readonly string[];
  /** Fields that only a create may set. */
  immutable?: readonly string[];
}

const maxDepth = 16;
const maxErrors = 100;

/** In free-form objects (tags and the like) `constructor` is a key like any other; DTO classes have no such field. */
const reservedKey = '__proto__';

const noun: Record<PropertyType, string> = {
  string: 'a string',
  number: 'a number',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
  date: 'a time',
  any: 'a value',
};

/** The typed body, or what is wrong with it (at most 100 findings). Never throws on any JSON value. */
export function validateDto<T extends object>(
  dtoClass: DtoClass<T>,
  body: unknown,
  options: ValidateDtoOptions = {},
): { value: T } | FieldError[] {
  const walk = new Walk(options);
  const value = walk.object(planOf(dtoClass), body, '', 0);
  return walk.errors.length > 0 ? walk.errors : { value: value as T };
}

class Walk {
  readonly errors: FieldError[] = [];

  constructor(private readonly options: ValidateDtoOptions) {}

  object(plan: DtoPlan, body: unknown, pointer: string, depth: number): object | undefined {
    if (!isObject(body)) return this.add(pointer, 'wrong_type', 'must be an object');
    if (depth > maxDepth) return this.add(pointer, 'invalid_value', `is nested deeper than ${maxDepth} levels`);
    const instance = new plan.dtoClass() as Record<string, unknown>;
    for (const key of Object.keys(body)) {
      if (plan.properties.get(key)?.isInput && !this.isRefused(key, depth)) instance[key] = body[key];
      else this.refuse(plan, key, `${pointer}/${escapeKey(key)}`, depth);
    }
    for (const property of plan.properties.values()) {
      if (!property.isInput || this.isRefused(property.name, depth)) continue;
      if (this.errors.length >= maxErrors) break;
      const isGiven = Object.hasOwn(body, property.name);
      this.property(property, instance, isGiven, `${pointer}/${escapeKey(property.name)}`, depth);
    }
    return instance;
  }

  private isRefused(key: string, depth: number): boolean {
    const { readOnly = [], immutable = [] } = this.options;
    return depth === 0 && (readOnly.includes(key) || immutable.includes(key));
  }

  private refuse(plan: DtoPlan, key: string, at: string, depth: number): void {
    const { readOnly, immutable } = this.options;
    const isReadOnly = plan.properties.get(key)?.isInput === false || (depth === 0 && readOnly?.includes(key));
    if (isReadOnly) this.add(at, 'read_only', 'is read-only; leave it out');
    else if (depth === 0 && immutable?.includes(key)) this.add(at, 'immutable', 'cannot be changed after creation');
    else this.add(at, 'unknown_field', 'is not a field here');
  }

  private property(
    plan: PropertyPlan,
    object: Record<string, unknown>,
    isGiven: boolean,
    at: string,
    depth: number,
  ): void {
    const value = object[plan.name];
    if (!isGiven && value !== undefined) return; // the class's own default
    if (!plan.conditions.every((condition) => condition(object, value))) {
      if (value !== undefined && value !== null) this.free(value, at, depth + 1);
      return;
    }
    if (value === undefined) this.add(at, 'required', 'is required');
    else if (value === null) this.add(at, 'null_not_allowed', 'must not be null');
    else if (!hasType(value, plan.type)) this.add(at, 'wrong_type', `must be ${noun[plan.type]}`);
    else if (!this.check(plan.rules, value, plan.name, object, at)) return;
    else if (plan.type === 'array') object[plan.name] = this.elements(plan, object, value as unknown[], at, depth);
    else if (plan.nested) object[plan.name] = this.object(planOf(plan.nested), value, at, depth + 1);
    else this.free(value, at, depth + 1);
  }

  private elements(plan: PropertyPlan, object: object, list: unknown[], at: string, depth: number): unknown[] {
    return list.map((item, index) => {
      const pointer = `${at}/${index}`;
      if (this.errors.length >= maxErrors) return item;
      if (item === null) return this.add(pointer, 'null_not_allowed', 'must not be null');
      if (!this.check(plan.elementRules, item, plan.name, object, pointer)) return item;
      if (plan.nested) return this.object(planOf(plan.nested), item, pointer, depth + 1);
      this.free(item, pointer, depth + 1);
      return item;
    });
  }

  /** Applies rules; those of the type alone first. False when one failed. */
  private check(rules: Rule[], value: unknown, property: string, object: object, at: string): boolean {
    if (rules.length === 0) return true;
    const constraints: unknown[] = [];
    const args: ValidationArguments = { value, property, object, constraints, targetName: object.constructor.name };
    const fails = (rule: Rule) => {
      args.constraints = rule.constraints as unknown[];
      return !rule.validate(value, args);
    };
    const badType = rules.find((rule) => isTypeRule(rule) && fails(rule));
    if (badType) {
      this.add(at, 'wrong_type', messageOf(badType, args));
      return false;
    }
    // What the other rules cost follows from the length.
    const tooMany = rules.find((rule) => rule.name === 'arrayMaxSize' && fails(rule));
    if (tooMany) {
      this.add(at, codeOf(tooMany, value), messageOf(tooMany, args));
      return false;
    }
    if (typeof value === 'number' && !Number.isSafeInteger(value) && rules.some((rule) => rule.name === 'isInt')) {
      this.add(at, 'out_of_range', 'must be a smaller number');
      return false;
    }
    const findings = rules.flatMap((rule): Finding[] => {
      if (isTypeRule(rule) || !fails(rule)) return [];
      return rule.context.find?.(value, object) ?? [{ code: codeOf(rule, value), message: messageOf(rule, args) }];
    });
    for (const { pointer = '', code, message } of decisive(findings)) this.add(at + pointer, code, message);
    return findings.length === 0;
  }

  /** What no rule describes further: text that PostgreSQL cannot hold, reserved keys and endless nesting are refused. */
  private free(value: unknown, at: string, depth: number): void {
    if (typeof value === 'string') this.text(value, at);
    if (typeof value !== 'object' || value === null || this.errors.length >= maxErrors) return;
    if (depth > maxDepth) {
      this.add(at, 'invalid_value', `is nested deeper than ${maxDepth} levels`);
      return;
    }
    for (const [key, member] of Object.entries(value)) {
      const pointer = `${at}/${escapeKey(key)}`;
      if (key === reservedKey) this.add(pointer, 'unknown_field', 'is not a field here');
      else {
        this.text(key, pointer);
        this.free(member, pointer, depth + 1);
      }
    }
  }

  private text(value: string, at: string): void {
    if (value.includes('\0')) this.add(at, 'invalid_value', 'must not contain the NUL character');
    else if (toUSVString(value) !== value) this.add(at, 'invalid_value', 'must be well-formed Unicode');
  }

  private add(pointer: string, code: string, message: string): undefined {
    if (this.errors.length < maxErrors) this.errors.push({ pointer, code, message });
    return undefined;
  }
}

/** Of a value too long, too short or empty it is not said as well that its format is wrong; and nothing is said twice. */
function decisive(findings: Finding[]): Finding[] {
  const isPlain = (finding: Finding) => finding.code !== 'invalid_format' || finding.pointer !== undefined;
  const kept = findings.some(isPlain) ? findings.filter(isPlain) : findings;
  if (kept.length < 2) return kept;
  const keyOf = ({ code, pointer = '' }: Finding) => `${code} ${pointer}`;
  // A map keeps the last one of a key, at the place of the first.
  return [...new Map(kept.toReversed().map((finding) => [keyOf(finding), finding])).values()].reverse();
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function hasType(value: unknown, type: PropertyType): boolean {
  switch (type) {
    case 'array':
      return Array.isArray(value);
    case 'object':
      return isObject(value);
    case 'date':
      return typeof value === 'string';
    case 'any':
      return true;
    default:
      return typeof value === type;
  }
}

/** RFC 6901 §3. An endless key is cut and ill-formed Unicode replaced, as it goes into an answer. */
function escapeKey(key: string): string {
  const shown = key.length > 200 ? `${key.slice(0, 200)}…` : key;
  return toUSVString(shown).replaceAll('~', '~0').replaceAll('/', '~1');
}
