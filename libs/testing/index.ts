export { type ContentLab, contentLab } from './content-lab.js';
export * from './database.js';
export * from './guests.js';
export * from './job-lab.js';
export * from './obedient-node.js';
export * from './platform.js';
export * from './reads.js';
export { FEW, fullSize, loadScale, quickSize, type ScaleSize } from './scale-data.js';
export * from './tenant-user.js';
