export { group } from './group.kind.js';
export { type FoundGroup, findGroups } from './group.rows.js';
