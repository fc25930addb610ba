/** The table of what each role may do, generated for the documentation from the rules themselves. */
import { roleAllows } from './access.js';
import { type Role, roles } from './actor.js';

export interface RoleTableKind {
  name: string;
  /** What users can do with it beside reading: create, update, delete. */
  changes: readonly string[];
  actions: readonly string[];
}

export interface RoleTableRow {
  kind: string;
  verb: string;
  allowed: Record<Role, boolean>;
}

/** One row per kind and verb that it has, in the order given; verbs: create, read, update, delete, then its actions. */
export function roleTable(kinds: readonly RoleTableKind[]): RoleTableRow[] {
  return kinds.flatMap(({ name, changes, actions }) =>
    ['create', 'read', 'update', 'delete', ...actions]
      .filter((verb) => verb === 'read' || changes.includes(verb) || actions.includes(verb))
      .map((verb) => ({
        kind: name,
        verb,
        allowed: Object.fromEntries(roles.map((role) => [role, roleAllows(role, verb, name)])) as Record<Role, boolean>,
      })),
  );
}

/** The same as a Markdown table, with the scope that each row needs. */
export function renderRoleTable(kinds: readonly RoleTableKind[]): string {
  const head = `| scope | ${roles.join(' | ')} |\n| --- |${' --- |'.repeat(roles.length)}\n`;
  const lines = roleTable(kinds).map(
    ({ kind, verb, allowed }) =>
      `| \`${kind}:${verb}\` | ${roles.map((role) => (allowed[role] ? 'yes' : '-')).join(' | ')} |\n`,
  );
  return head + lines.join('');
}
