export { detachAll, MAX_DISKS } from './attaching.js';
export {
  addBootDisk,
  ownBootDisk,
  releaseBootDisk,
  retireBootDisk,
  settleBootDisk,
  takeDisks,
} from './boot-disk.js';
export { purgeDeletedAs } from './deleted.js';
export { disk } from './disk.kind.js';
export { endMove, findMove, type Move, nodesFor, refuseTenant } from './moves.js';
export {
  awaitDisk,
  forgetTaken,
  leaveDisk,
  lockMovable,
  type MovableDisk,
  moveDisk,
  remakeDisk,
  sharedWith,
  takeOverDisk,
} from './moving.js';
export { MAKE_DISK_MS, tellDisk } from './on-node.js';
export { type DiskImage, type FoundDisk, findDisks, findImage, gibOf, lockUsableDisk, refuseMoving } from './rows.js';
