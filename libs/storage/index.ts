export {
  type ContentInfo,
  type ContentStore,
  contentTooLarge,
  DirectoryStore,
} from './content-store.js';
export { type DownloadOptions, download } from './download.js';
export { giveBack } from './give-back.js';
export {
  type ImageRefusal,
  ImageRefused,
  type InspectedImage,
  type InspectImageOptions,
  inspectImage,
} from './inspect-image.js';
export { PartStore, type StoredContent, TooManyBytes, type WriteOptions } from './part-store.js';
export { type Resolve, type ResolvedAddress, SourceGuard, type SourceRules, sourceUrlProblem } from './source-guard.js';
