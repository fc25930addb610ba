import { movesAlong } from '#libs/kinds/realm';
import { serviceaccountMover } from './serviceaccount.moving.js';

export { serviceaccount } from './serviceaccount.kind.js';
export { findServiceaccount } from './serviceaccount.rows.js';

movesAlong(serviceaccountMover);
