// utils/downloadManager.ts

class DownloadManager {
  private activeJobs = new Map<string, EventSource>();

  // Handle browser close during download
  setupUnloadHandler() {
    window.addEventListener('beforeunload', (e) => {
      if (this.activeJobs.size > 0) {
        e.preventDefault();
        e.returnValue = 'Downloads in progress. Are you sure you want to leave?';
      }
    });
  }

  // Handle network reconnection
  setupNetworkHandler(jobId: string) {
    window.addEventListener('online', () => {
      console.log('Network restored, resuming job status...');
      this.resubscribe(jobId);
    });

    window.addEventListener('offline', () => {
      console.log('Network lost, pausing updates...');
      this.closeConnection(jobId);
    });
  }

  // Handle concurrent downloads
  async initiateMultiple(fileIdGroups: number[][]) {
    const jobs = await Promise.all(
      fileIdGroups.map(fileIds =>
        fetch('/v1/export', {
          method: 'POST',
          body: JSON.stringify({ file_ids: fileIds }),
        }).then(r => r.json())
      )
    );

    return jobs;
  }
}
