/** Which of the built-in roles has more, for whoever has to be given the lesser of two. */
import type { Role } from './actor.js';

const rank: Readonly<Record<Role, number>> = { viewer: 1, operator: 2, admin: 3 };

const highest = (roles: readonly Role[]) => Math.max(0, ...roles.map((role) => rank[role]));

/** The roles of `these` or of `those`, whichever go less far. */
export function lesserRoles(these: readonly Role[], those: readonly Role[]): Role[] {
  return [...(highest(these) <= highest(those) ? these : those)];
}
