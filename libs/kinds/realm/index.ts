export { sweepAccounts } from './account-sweep.js';
export { goingAlong } from './going-along.js';
export { type Moved, type Mover, movesAlong } from './moving.js';
export { keptPlaceOf, placeOf } from './place.js';
export { REALM_NAME, realm } from './realm.kind.js';
export { narrowingScopes } from './scopes.js';
