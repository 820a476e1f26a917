import { createRoot } from 'react-dom/client';
import { DownloadProgress } from '../001/components/DownloadProgress';

createRoot(document.getElementById('root')!).render(<DownloadProgress />);
