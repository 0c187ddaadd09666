import type { Logger } from '@turnpike/core/spi';

/** One listener that throws keeps nobody else from hearing. */
export function tellAll(listeners: Iterable<() => void>, logger: Logger): void {
  for (const listener of listeners) {
    try {
      listener();
    } catch (error) {
      logger.error('identity.listener_failed', { message: error instanceof Error ? error.message : String(error) });
    }
  }
}
