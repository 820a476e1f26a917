// hooks/useDownload.ts
import { useState, useEffect, useCallback } from 'react';

interface DownloadJob {
  job_id: string;
  status: 'queued' | 'processing' | 'completed' | 'failed';
  progress?: number;
  download_url?: string;
  error?: string;
}

export function useDownload(fileId: number) {
  const [job, setJob] = useState<DownloadJob | null>(null);
  const [loading, setLoading] = useState(false);
  const [error, setError] = useState<string | null>(null);

  const initiateDownload = useCallback(async () => {
    setLoading(true);
    setError(null);

    try {
      const response = await fetch('/v1/download/initiate', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ file_id: fileId })
      });

      if (!response.ok) throw new Error('Failed to initiate download');

      const data = await response.json();
      setJob(data);

      // Start polling
      startPolling(data.job_id);
    } catch (err) {
      setError(err.message);
    } finally {
      setLoading(false);
    }
  }, [fileId]);

  const startPolling = useCallback((jobId: string) => {
    const pollInterval = setInterval(async () => {
      try {
        const response = await fetch(`/v1/download/status/${jobId}`);
        const data = await response.json();

        setJob(data);

        // Stop polling when terminal state reached
        if (data.status === 'completed' || data.status === 'failed') {
          clearInterval(pollInterval);
        }
      } catch (err) {
        console.error('Polling error:', err);
      }
    }, 2000); // Poll every 2 seconds

    // Cleanup on unmount
    return () => clearInterval(pollInterval);
  }, []);

  return {
    job,
    loading,
    error,
    initiateDownload,
    isCompleted: job?.status === 'completed',
    isFailed: job?.status === 'failed',
    downloadUrl: job?.download_url
  };
}

// components/DownloadButton.tsx
export function DownloadButton({ fileId }: { fileId: number }) {
  const { job, loading, initiateDownload, isCompleted, downloadUrl } = useDownload(fileId);

  return (
    <div className="download-container">
      {!job && (
        <button onClick={initiateDownload} disabled={loading}>
          {loading ? 'Starting...' : 'Download File'}
        </button>
      )}

      {job && job.status === 'queued' && (
        <div className="status">
          <Spinner />
          <span>Queued... Position in queue: {job.queue_position}</span>
        </div>
      )}

      {job && job.status === 'processing' && (
        <div className="status">
          <ProgressBar progress={job.progress || 0} />
          <span>Processing... {job.progress}%</span>
          <span className="estimate">Est. {job.estimated_completion}</span>
        </div>
      )}

      {isCompleted && downloadUrl && (
        <a href={downloadUrl} download className="download-link">
          <button>Download Now</button>
        </a>
      )}

      {job?.status === 'failed' && (
        <div className="error">
          <span>Download failed: {job.error}</span>
          <button onClick={initiateDownload}>Retry</button>
        </div>
      )}
    </div>
  );
}
