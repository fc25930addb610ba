/** Kind image before the contract suite: tenants read the global ones. */
import { newId } from '#libs/core';
import { globalImage } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';

export const contract = kindContract({
  isPublic: true,
  insert: async (platform) => {
    const name = `image-${newId().slice(-12)}`;
    return { id: await globalImage(platform, name), name };
  },
});
