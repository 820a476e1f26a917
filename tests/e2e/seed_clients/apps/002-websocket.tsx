import { createRoot } from 'react-dom/client';
// Completed by the test: "... rest of the hook" returns the state and its setter.
import { useWebSocketDownload } from './useWebSocketDownload';

function App() {
  const { job, setJob } = useWebSocketDownload(70000);

  const initiate = async () => {
    const response = await fetch('/v1/download/initiate', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ file_id: 70000 }),
    });
    setJob(await response.json());
  };

  return (
    <div>
      <button onClick={initiate}>Start</button>
      {job && <b className="status">{job.status}</b>}
      {job && <span className="progress">{job.progress}</span>}
      {job?.error && <span className="error">{job.error}</span>}
      {job?.download_url && <a href={job.download_url} download>Download</a>}
    </div>
  );
}

createRoot(document.getElementById('root')!).render(<App />);
