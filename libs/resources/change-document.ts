/** From what a client sent to a kind's document: checked whole, with a merge patch applied to what stands (ADR 0008). */
import { type FieldError, invalid, RhyzomeError } from '#libs/core';
import { schemaOf, validateDto } from '#libs/openapi';
import { coreReadOnly } from './document.js';
import type { CoreDocument, KindDefinition } from './kind.js';
import { mergePatch } from './merge-patch.js';

/** Fields of a kind that answers have and bodies must not. */
export function readOnlyOf(kind: KindDefinition): string[] {
  return [...new Set<string>([...coreReadOnly, ...(kind.readOnly ?? [])])];
}

/** The typed body of a DTO. Throws RhyzomeError `invalid`. */
export function validated<T extends object>(
  dto: new () => object,
  body: unknown,
  options: { readOnly?: string[]; immutable?: string[] },
): T {
  const outcome = validateDto(dto, body, options);
  if (Array.isArray(outcome)) throw invalid(outcome);
  return outcome.value as T;
}

/** The document with the patch applied, checked as a whole by the update DTO; what the patch names is checked first. */
export function patched(kind: KindDefinition, previous: CoreDocument, patch: unknown): CoreDocument {
  if (typeof patch !== 'object' || patch === null || Array.isArray(patch)) {
    throw new RhyzomeError('not_an_object', 'A merge patch of a resource is a JSON object (RFC 7396).');
  }
  refuseInvalid(removalErrors(kind, patch));
  const settable = mergePatch(onlyKnown(kind, previous), patch);
  const document = validated<CoreDocument>(kind.dto.update, settable, {
    readOnly: readOnlyOf(kind),
    immutable: [...(kind.immutable ?? [])],
  });
  return { ...previous, ...clearedBy(previous, patch), ...document };
}

/** A null removes a field; what is no field, or not the user's to change, cannot be removed. */
function removalErrors(kind: KindDefinition, patch: object): FieldError[] {
  const known = schemaOf(kind.dto.update).properties ?? {};
  return Object.entries(patch).flatMap(([key, value]): FieldError[] => {
    if (value !== null) return [];
    const pointer = `/${key.slice(0, 100).replaceAll('~', '~0').replaceAll('/', '~1')}`;
    if (readOnlyOf(kind).includes(key)) return [{ pointer, code: 'read_only', message: 'cannot be set' }];
    if (kind.immutable?.includes(key)) return [{ pointer, code: 'immutable', message: 'cannot be changed' }];
    return Object.hasOwn(known, key) ? [] : [{ pointer, code: 'unknown_field', message: 'is not a field here' }];
  });
}

/** The part of a document that a change may name. */
function onlyKnown(kind: KindDefinition, document: CoreDocument): Record<string, unknown> {
  const immutable = new Set(kind.immutable ?? []);
  return Object.fromEntries(
    Object.entries(document).filter(([key, value]) => !immutable.has(key) && value !== null && value !== undefined),
  );
}

/** Fields that the patch removes fall back to their defaults: undefined here, filled in by the kind. */
function clearedBy(previous: CoreDocument, patch: object): Partial<CoreDocument> {
  const cleared = Object.entries(patch).filter(([key, value]) => value === null && Object.hasOwn(previous, key));
  return Object.fromEntries(cleared.map(([key]) => [key, undefined]));
}

/** Throws RhyzomeError `invalid` where there is anything. */
export function refuseInvalid(errors: FieldError[]): void {
  if (errors.length > 0) throw invalid(errors);
}
