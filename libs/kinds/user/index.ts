import { movesAlong } from '#libs/kinds/realm';
import { userMover } from './user.moving.js';

export { user } from './user.kind.js';

movesAlong(userMover);
