export {
  type ContentInfo,
  type ContentStore,
  contentTooLarge,
  DirectoryStore,
  type StoredContent,
} from './content-store.js';
export {
  type ImageRefusal,
  ImageRefused,
  type InspectedImage,
  type InspectImageOptions,
  inspectImage,
} from './inspect-image.js';
