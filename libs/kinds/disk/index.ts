export { detachAll, MAX_DISKS } from './attaching.js';
export {
  addBootDisk,
  ownBootDisk,
  releaseBootDisk,
  retireBootDisk,
  settleBootDisk,
  takeDisks,
} from './boot-disk.js';
export { disk } from './disk.kind.js';
export { MAKE_DISK_MS, tellDisk } from './on-node.js';
export { type DiskImage, type FoundDisk, findDisks, findImage, gibOf, lockUsableDisk } from './rows.js';
