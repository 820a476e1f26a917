// Completed by the test: the class is exported.
import { DownloadManager } from './downloadManager';

Object.assign(window, { manager: new DownloadManager() });
