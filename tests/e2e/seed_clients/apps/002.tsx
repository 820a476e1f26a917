import { createRoot } from 'react-dom/client';
import { DownloadButton } from '../002/useDownload';

// What the document takes from the application around it.
Object.assign(window, {
  Spinner: () => <i className="spinner" />,
  ProgressBar: ({ progress }: { progress: number }) => <progress max={100} value={progress} />,
});

createRoot(document.getElementById('root')!).render(<DownloadButton fileId={70000} />);
