/** Groups go along, before their members, when the tenant's login place moves. */
import { identity } from '#libs/identity';
import { goingAlong, type Mover } from '#libs/kinds/realm';
import { findResource } from '#libs/resources';
import { group } from './group.kind.js';

export const groupMover: Mover = {
  kind: 'group',
  account: 'group',
  order: 1,
  put: async (scope, place, signal) => {
    const ids = await goingAlong(scope, 'group');
    for (const id of ids) {
      const row = await findResource(scope, group, id);
      if (row) await identity().putGroup(place, row.name, signal);
    }
    return ids.map((id) => ({ id }));
  },
  // Nobody knows a group by anything but its name.
  note: async () => undefined,
};
