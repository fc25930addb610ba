import { movesAlong } from '#libs/kinds/realm';
import { groupMover } from './group.moving.js';

export { group } from './group.kind.js';
export { type FoundGroup, findGroups } from './group.rows.js';

movesAlong(groupMover);
