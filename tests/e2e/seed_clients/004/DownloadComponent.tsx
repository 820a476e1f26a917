import React from 'react'
import { useDownloadManager } from './useDownloadManager'

export function DownloadComponent() {
  const { job, error, isLoading, initiateDownload, retry } = useDownloadManager(
    process.env.REACT_APP_API_URL || 'http://localhost:3000'
  )

  const handleInitiate = async () => {
    await initiateDownload([70000, 70001, 70002])
  }

  return (
    <div className="download-manager">
      <h2>Download Manager</h2>

      {!job ? (
        <button onClick={handleInitiate} disabled={isLoading}>
          {isLoading ? 'Initiating...' : 'Start Download'}
        </button>
      ) : (
        <div>
          <div className="job-status">
            <h3>Job ID: {job.jobId}</h3>
            <p>Status: <strong>{job.status}</strong></p>

            {job.status === 'processing' && (
              <div className="progress">
                <div className="progress-bar">
                  <div
                    className="progress-fill"
                    style={{ width: `${job.progress.percentage}%` }}
                  />
                </div>
                <p>
                  {job.progress.current} / {job.progress.total} files
                  ({job.progress.percentage.toFixed(1)}%)
                </p>

                {job.progress.estimatedTimeRemaining && (
                  <p>
                    Estimated time remaining:{' '}
                    {Math.ceil(job.progress.estimatedTimeRemaining / 1000)}s
                  </p>
                )}
              </div>
            )}

            {job.status === 'ready' && (
              <button onClick={() => window.location.reload()}>
                Download Complete
              </button>
            )}

            {job.status === 'failed' && (
              <button onClick={retry}>Retry</button>
            )}
          </div>

          {error && <div className="error">{error}</div>}
        </div>
      )}
    </div>
  )
}
