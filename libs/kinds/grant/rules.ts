/**
 * What a grant gives, from what was asked for to the rows that permissions are decided on: nothing that its author has
 * not, at that moment. For service accounts it is cut to that, for others refused.
 */
import type { Actor } from '#libs/auth';
import { adminActor, cutTo, type Given, MAX_PARTS, selectorText, shortfalls, TooManyParts } from '#libs/auth';
import { type FieldError, invalid, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { grantableKinds, type Who } from '#libs/resources';

/** As it stands in the grant's row, and once for each in access_rule. */
export interface StoredRule {
  verbs: string[];
  kinds: string[];
  selector: string | null;
  ids: string[] | null;
}

export type SubjectType = 'user' | 'serviceaccount' | 'group' | 'role' | 'sub';

/** Of one grant. One is enough but where it is cut. */
export const MAX_RULES = MAX_PARTS;
/** In a rule that is cut to what its author has by ids. */
const MAX_IDS = 1000;
const MAX_ERRORS = 50;

/** Throws RhyzomeError `forbidden` with a pointer to each verb that its author lacks, `invalid` when it is too much to write. */
export function rulesOf(author: Actor, given: Given, subject: SubjectType): StoredRule[] {
  const kinds = grantableKinds();
  if (subject !== 'serviceaccount') {
    const missing = shortfalls(author, given, kinds);
    if (missing.length > 0) throw tooMuch(given, missing);
    return [stored(given)];
  }
  const cut = cutOf(author, given);
  if (cut.length === 0) throw tooMuch(given, shortfalls(author, given, kinds));
  const rules = cut.map(stored);
  if (rules.length > MAX_RULES || rules.some(({ ids }) => (ids?.length ?? 0) > MAX_IDS)) throw tooMany();
  return rules;
}

function cutOf(author: Actor, given: Given): Given[] {
  try {
    return cutTo(author, given, grantableKinds());
  } catch (error) {
    throw error instanceof TooManyParts ? tooMany() : error;
  }
}

function tooMany(): RhyzomeError {
  const message = `is more than ${MAX_RULES} rules when it is cut to what you have; ask for less at once`;
  return invalid([{ pointer: '/kinds', code: 'too_many', message }]);
}

/** Nobody in particular asks: the administrator at the shell, who may give anything. */
export function authorOf(actor: Actor | undefined, tenantId: string): Actor {
  return actor ?? adminActor(tenantId, 'shell');
}

function stored({ verbs, kinds, where }: Given): StoredRule {
  const selector = where.is === 'selected' ? selectorText(where.selector) : null;
  if (selector === undefined) {
    throw invalid([{ pointer: '/tagSelector', code: 'invalid_value', message: 'is too much for one selector' }]);
  }
  const ids = where.is === 'named' ? where.resources.map(({ id }) => id) : null;
  return { verbs: [...verbs], kinds: [...kinds], selector, ids };
}

function tooMuch(given: Given, missing: { verb: string; kind: string }[]): RhyzomeError {
  const which = given.where.is === 'all' ? 'every' : given.where.is === 'selected' ? 'each such' : 'each of these';
  const errors = missing.slice(0, MAX_ERRORS).map(
    ({ verb, kind }): FieldError => ({
      pointer: `/verbs/${given.verbs.indexOf(verb)}`,
      code: 'forbidden',
      message: `you do not have ${kind}:${verb} for ${which} ${kind === '*' ? 'resource' : kind} yourself`,
    }),
  );
  const named = missing.slice(0, 5).map(({ verb, kind }) => `${kind}:${verb}`);
  const more = missing.length > named.length ? ` and ${missing.length - named.length} more` : '';
  return new RhyzomeError('forbidden', `You cannot give what you do not have yourself: ${named.join(', ')}${more}.`, {
    errors,
  });
}

/** From the end of the transaction on it gives these, and nothing else. */
export async function putRules(
  tx: Tx,
  { tenantId, id }: Who,
  subject: { type: SubjectType; name: string },
  rules: readonly StoredRule[],
): Promise<void> {
  await tx.deleteFrom('access_rule').where('tenant_id', '=', tenantId).where('grant_id', '=', id).execute();
  if (rules.length === 0) return;
  await tx
    .insertInto('access_rule')
    .values(
      rules.map(({ verbs, kinds, selector, ids }, ordinal) => ({
        tenant_id: tenantId,
        grant_id: id,
        ordinal,
        subject_type: subject.type,
        subject: subject.name,
        verbs,
        kinds,
        selector,
        resource_ids: ids,
      })),
    )
    .execute();
}
