// components/DownloadProgress.tsx
import { useDownload } from '../hooks/useDownload';

export function DownloadProgress() {
  const { job, isLoading, initiateDownload, cancelDownload } = useDownload();

  return (
    <div className="download-container">
      {!job && (
        <button
          onClick={() => initiateDownload([70000, 70001])}
          disabled={isLoading}
        >
          {isLoading ? 'Starting...' : 'Start Download'}
        </button>
      )}

      {job && (
        <div className="progress-card">
          <div className="status-badge" data-status={job.status}>
            {job.status.toUpperCase()}
          </div>

          <div className="progress-bar">
            <div
              className="progress-fill"
              style={{ width: `${job.progress}%` }}
            />
          </div>

          <span className="progress-text">{job.progress}%</span>

          {job.status === 'completed' && job.downloadUrl && (
            <a
              href={job.downloadUrl}
              className="download-button"
              download
            >
              Download File
            </a>
          )}

          {job.status === 'failed' && (
            <div className="error-message">
              Error: {job.error}
              <button onClick={() => initiateDownload([70000])}>
                Retry
              </button>
            </div>
          )}

          {(job.status === 'queued' || job.status === 'processing') && (
            <button onClick={cancelDownload} className="cancel-button">
              Cancel
            </button>
          )}
        </div>
      )}
    </div>
  );
}
