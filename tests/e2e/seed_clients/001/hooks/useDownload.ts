// hooks/useDownload.ts
import { useState, useEffect, useCallback } from 'react';

interface DownloadJob {
  jobId: string;
  status: 'queued' | 'processing' | 'completed' | 'failed';
  progress: number;
  downloadUrl?: string;
  error?: string;
}

export function useDownload() {
  const [job, setJob] = useState<DownloadJob | null>(null);
  const [isLoading, setIsLoading] = useState(false);

  // Initiate download
  const initiateDownload = useCallback(async (fileIds: number[]) => {
    setIsLoading(true);

    const response = await fetch('/v1/export', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ file_ids: fileIds }),
    });

    const data = await response.json();
    setJob({ ...data, progress: 0 });
    setIsLoading(false);

    // Start SSE subscription
    subscribeToUpdates(data.jobId);

    return data;
  }, []);

  // SSE subscription with fallback to polling
  const subscribeToUpdates = useCallback((jobId: string) => {
    // Try SSE first
    if (typeof EventSource !== 'undefined') {
      const eventSource = new EventSource(`/v1/download/subscribe/${jobId}`);

      eventSource.addEventListener('progress', (e) => {
        const data = JSON.parse(e.data);
        setJob(prev => prev ? { ...prev, ...data } : null);
      });

      eventSource.addEventListener('completed', (e) => {
        const data = JSON.parse(e.data);
        setJob(prev => prev ? {
          ...prev,
          status: 'completed',
          progress: 100,
          downloadUrl: data.downloadUrl
        } : null);
        eventSource.close();
      });

      eventSource.addEventListener('failed', (e) => {
        const data = JSON.parse(e.data);
        setJob(prev => prev ? {
          ...prev,
          status: 'failed',
          error: data.error
        } : null);
        eventSource.close();
      });

      eventSource.onerror = () => {
        eventSource.close();
        // Fallback to polling
        pollForUpdates(jobId);
      };
    } else {
      // Browser doesn't support SSE
      pollForUpdates(jobId);
    }
  }, []);

  // Polling fallback
  const pollForUpdates = useCallback(async (jobId: string) => {
    const poll = async () => {
      const response = await fetch(`/v1/download/status/${jobId}`);
      const data = await response.json();

      setJob(data);

      if (data.status === 'queued' || data.status === 'processing') {
        setTimeout(poll, 2000);  // Poll every 2 seconds
      }
    };

    poll();
  }, []);

  // Cancel download
  const cancelDownload = useCallback(async () => {
    if (!job?.jobId) return;

    await fetch(`/v1/download/${job.jobId}`, {
      method: 'DELETE',
    });

    setJob(null);
  }, [job?.jobId]);

  return {
    job,
    isLoading,
    initiateDownload,
    cancelDownload,
  };
}
